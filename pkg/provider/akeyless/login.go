package akeyless

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// bearer is who logs in: a pod with what it has to show.
type bearer struct {
	pod    identity.Pod
	tokens identity.Tokens
	// given is the access key or the universal identity token.
	given secret.String
}

// secrets are what a hostile server could say back to us.
func (b bearer) secrets(t *token) []secret.String {
	list := []secret.String{b.given}
	if t != nil {
		list = append(list, t.value)
	}
	for _, account := range b.tokens {
		list = append(list, account.JWT)
	}
	return list
}

// until is when the bearer's means to log in end; zero means never.
func (b bearer) until(l login) time.Time {
	if !l.Type.asPod() {
		return time.Time{}
	}
	return b.tokens[l.Audience].Expires
}

// logIn logs in. Its errors are the bearer's own, unless the store is away.
func (p *Provider) logIn(ctx context.Context, l login, b bearer) (*token, error) {
	began := time.Now()
	t, err := p.tryLogIn(ctx, l, b)
	now := time.Now()
	provider.NoteAccess(ctx, provider.Access{
		Operation: provider.AccessLogin, Address: l.Target.Address.String(), Mount: string(l.Type), Role: l.AccessID,
		Asked: provider.Correlation(ctx), Err: err, At: now, Took: now.Sub(began),
	})
	return t, singleflight.Own(err)
}

func (p *Provider) tryLogIn(ctx context.Context, l login, b bearer) (*token, error) {
	body, err := p.credentials(ctx, l, b)
	if err != nil {
		return nil, explainLogin(l, b, err)
	}
	e, err := p.endpoints.Get(ctx, l.Target, p.now())
	if err != nil {
		return nil, err
	}
	secrets := b.secrets(nil)
	if id, ok := body["cloud-id"].(string); ok {
		secrets = append(secrets, secret.NewString(id))
	}
	asked := p.now()
	r, err := p.do(ctx, call{endpoint: e, operation: endpoint.OpLogin, tenant: b.pod.Namespace, path: "/auth", body: body, about: "/auth", secrets: secrets})
	if err != nil {
		return nil, explainLogin(l, b, err)
	}
	a, err := readAuth(r, e.Address)
	if err != nil {
		return nil, explainLogin(l, b, err)
	}
	p.config.Logger.Debug("logged in", "pod", b.pod.String(), "address", e.Address.String(), "accessType", string(l.Type),
		"accessID", l.AccessID, "jti", b.tokens[l.Audience].Claims.ID)
	return newToken(a, asked, p.config.Jitter()), nil
}

func readAuth(r *endpoint.Reply, at endpoint.Address) (authAnswer, error) {
	var a authAnswer
	if err := decode(r, at, &a); err != nil {
		return a, err
	}
	switch {
	case a.Creds.MFA != "" && a.Token == "":
		return a, fault.New(fault.Denied, "the auth method asks for a second factor").WithHint("a pod has none")
	case a.Token == "" && a.Link != "":
		return a, fault.New(fault.Denied, "the auth method wants a person with a browser")
	case a.Token == "", endpoint.HasControl(a.Token):
		return a, fault.New(fault.BadAnswer, "the answer of %s holds no usable Akeyless token", at)
	}
	return a, nil
}

// credentials are the body of /auth.
func (p *Provider) credentials(ctx context.Context, l login, b bearer) (map[string]any, error) {
	body := map[string]any{"access-type": string(l.Type), "json": true}
	if l.AccessID != "" {
		body["access-id"] = l.AccessID
	}
	if key := l.Type.secretKey(); key != "" {
		if b.given.Empty() {
			return nil, fault.New(fault.InvalidClass, "there is no %s", key).
				WithHint("name a Secret with the key %s in the volume's nodePublishSecretRef, or use the access type k8s, which needs none", key)
		}
		body[map[accessType]string{typeAccessKey: "access-key", typeUID: "uid_token"}[l.Type]] = b.given.Reveal()
		return body, nil
	}
	account, err := b.tokens.For(l.Audience, p.now())
	if err != nil {
		return nil, err
	}
	switch l.Type {
	case typeK8s:
		body["k8s-auth-config-name"] = l.K8sConfig
		body["gateway-url"] = l.K8sGateway
		body["k8s-service-account-token"] = base64.StdEncoding.EncodeToString([]byte(account.JWT.Reveal()))
	case typeJWT:
		body["jwt"] = account.JWT.Reveal()
	default:
		id, err := p.cloudID(ctx, l, b, account)
		if err != nil {
			return nil, err
		}
		body["cloud-id"] = id.Reveal()
	}
	return body, nil
}

// explainLogin adds what was attempted, as whom, and what to look at.
// What the gateway does not find there, such as its auth config, is never an
// item that may be missing.
func explainLogin(l login, b bearer, err error) error {
	reason := fault.Of(err)
	missing := reason == fault.NotFound
	if missing {
		reason = fault.Rejected
	}
	out := fault.New(reason, "logging in to %s as access ID %q with access type %s%s: %w", l.Target.Address, l.AccessID, l.Type, as(l, b), err)
	out.RetryAfter = fault.RetryAfter(err)
	var said *fault.Error
	if (errors.As(err, &said) && said.Hint != "") || out.Reason != fault.Denied && !missing {
		return out
	}
	return out.WithHint("%s", hintOfLogin(l, b))
}

func as(l login, b bearer) string {
	if !l.Type.asPod() {
		return ""
	}
	return fmt.Sprintf(", as service account %s/%s with a token for audience %q", b.pod.Namespace, b.pod.ServiceAccount, l.Audience)
}

func hintOfLogin(l login, b bearer) string {
	account := b.pod.Namespace + "/" + b.pod.ServiceAccount
	switch l.Type {
	case typeK8s:
		return fmt.Sprintf("does the gateway's Kubernetes auth config %q know this cluster, does the auth method of %s let in service account %s, and does it expect audience %q?", l.K8sConfig, l.AccessID, account, l.Audience)
	case typeJWT:
		return fmt.Sprintf("does the auth method of %s have this cluster's issuer or JWKS URL, and does it let in audience %q and service account %s?", l.AccessID, l.Audience, account)
	case typeUID:
		return "a universal identity token ends when it is not rotated in time: whoever owns it must keep the Secret current"
	case typeAccessKey:
		return "is the access key that of this access ID?"
	}
	return fmt.Sprintf("does the auth method of %s let in this cloud identity?", l.AccessID)
}
