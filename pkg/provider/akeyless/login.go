package akeyless

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// Login implements session.Session. Akeyless does not say whether the login depends on the
// pod or only on the service account, so the class decides.
func (s *akeylessSession) Login(ctx context.Context) (*session.Token, bool, error) {
	t, err := s.conn.logIn(ctx)
	if err != nil {
		err = explainLogin(s.conn.login, s.conn.Caller.Bearer, err)
	}
	return t, false, singleflight.Own(err)
}

func (c *conn) logIn(ctx context.Context) (*session.Token, error) {
	// 1. Get what the access type needs: the pod's token, a cloud identity for it, or the
	// credential in the volume's Secret.
	l, b := c.login, c.Caller.Bearer
	body, err := c.credentials(ctx)
	if err != nil {
		return nil, err
	}
	secrets := c.Caller.Secrets(nil)
	if id, ok := body["cloud-id"].(string); ok {
		secrets = append(secrets, secret.NewString(id))
	}
	// 2. Send it to the gateway, and check that the answer has a token.
	asked := c.Now()
	r, err := c.uncharged(ctx, endpoint.OpLogin, "/auth", "", body, secrets)
	if err != nil {
		return nil, err
	}
	a, err := c.readAuth(r)
	if err != nil {
		return nil, err
	}
	c.Logger.Debug("logged in", logkey.Pod, b.Pod.String(), logkey.Address, r.Server(c.Address()).String(), logkey.AccessType, string(l.Type),
		logkey.AccessID, l.AccessID, logkey.JTI, b.Tokens[l.Audience].Claims.ID)
	return session.NewToken(l, session.Grant{Value: a.Token, TTL: a.expires(asked).Sub(asked), At: r.From}, asked, c.Jitter()), nil
}

func (c *conn) readAuth(r *endpoint.Reply) (authAnswer, error) {
	var a authAnswer
	if err := decode(c.Address(), r, &a); err != nil {
		return a, err
	}
	switch {
	case a.Creds.MFA != "" && a.Token == "":
		return a, fault.New(fault.Denied, "the auth method asks for a second factor").WithHint("a pod has none")
	case a.Token == "" && a.Link != "":
		return a, fault.New(fault.Denied, "the auth method wants a person with a browser")
	case a.Token == "", endpoint.HasControl(a.Token):
		return a, fault.New(fault.BadAnswer, "the answer of %s holds no usable Akeyless token", r.Server(c.Address()))
	}
	return a, nil
}

// credentials returns the body of /auth.
func (c *conn) credentials(ctx context.Context) (map[string]any, error) {
	l, b := c.login, c.Caller.Bearer
	body := map[string]any{"access-type": string(l.Type), "json": true}
	if l.AccessID != "" {
		body["access-id"] = l.AccessID
	}
	if key := l.Type.secretKey(); key != "" {
		if b.Given.Empty() {
			return nil, fault.New(fault.InvalidClass, "there is no %s", key).
				WithHint("name a Secret with the key %s in the volume's nodePublishSecretRef, or use the access type k8s, which needs none", key)
		}
		body[map[accessType]string{typeAccessKey: "access-key", typeUID: "uid_token"}[l.Type]] = b.Given.Reveal()
		return body, nil
	}
	account, err := b.Tokens.For(l.Audience, c.Now())
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
		id, err := cloud{&c.Conn, c.client, l, ctx, account}.identity()
		if err != nil {
			return nil, err
		}
		body["cloud-id"] = id.Reveal()
	}
	return body, nil
}

// explainLogin adds to an error what was attempted, the identity, and a hint. Something
// that the gateway does not find here, such as its auth config, never counts as a missing
// optional item.
func explainLogin(l login, b session.Bearer, err error) error {
	reason := fault.Of(err)
	missing := reason == fault.NotFound
	if missing {
		reason = fault.Rejected
	}
	out := fault.Wrap(reason, err, "logging in to %s as access ID %q with access type %s%s", l.Target.Address, l.AccessID, l.Type, as(l, b))
	if fault.Hint(err) != "" || out.Reason != fault.Denied && !missing {
		return out
	}
	return out.WithHint("%s", hintOfLogin(l, b))
}

func as(l login, b session.Bearer) string {
	if !l.Type.asPod() {
		return ""
	}
	return fmt.Sprintf(", as service account %s/%s with a token for audience %q", b.Pod.Namespace, b.Pod.ServiceAccount, l.Audience)
}

func hintOfLogin(l login, b session.Bearer) string {
	account := b.Pod.Namespace + "/" + b.Pod.ServiceAccount
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

// usualLife is the lifetime of a token whose login does not say it.
const usualLife = 14 * time.Minute

// authAnswer is the answer of /auth.
type authAnswer struct {
	Token string `json:"token"`
	Creds struct {
		Expiry json.Number `json:"expiry"`
		MFA    string      `json:"required_mfa"`
	} `json:"creds"`
	Expiration string `json:"expiration"`
	Link       string `json:"complete_auth_link"`
}

// expires finds the end of the token: in creds, or in the field of newer gateways.
func (a authAnswer) expires(now time.Time) time.Time {
	end := time.Time{}
	if at, err := time.Parse(time.RFC3339, a.Expiration); err == nil {
		end = at
	}
	if n, err := a.Creds.Expiry.Int64(); err == nil && n > 0 {
		const year5000 = 95617584000
		if n > year5000 {
			n /= 1000 // milliseconds
		}
		end = time.Unix(n, 0)
	}
	if !end.After(now) {
		return now.Add(usualLife)
	}
	if latest := now.Add(longest); end.After(latest) {
		return latest // a later time may have no JSON form
	}
	return end
}
