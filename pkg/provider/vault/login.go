package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// session is the group's token for a read: the one that is there, renewed if
// it is due, or that of a new login. A stale one is not taken, and neither is
// one whose uses are spent.
func (f *fetch) session(ctx context.Context, g *group, stale *token) (*token, error) {
	for {
		t, err := f.sessionToken(ctx, g, stale)
		if err != nil || t.take(0) {
			return t, err
		}
		stale = t // others were faster
	}
}

func (f *fetch) sessionToken(ctx context.Context, g *group, stale *token) (*token, error) {
	if t := g.login.Current(f.now(), stale); t != nil {
		if due, _ := t.isDue(f.now()); !due {
			return t, nil
		}
	}
	t, _, err := g.logins.Do(ctx, struct{}{}, f.now, time.Time{}, func() (*token, error) {
		if t := g.login.Current(f.now(), stale); t != nil && f.extended(ctx, t) {
			return t, nil
		}
		return f.loginGroup(ctx, g)
	})
	return t, err
}

// extended renews a token that is due. It tells whether the token is good for
// further use without a new login.
func (f *fetch) extended(ctx context.Context, t *token) bool {
	due, final := t.isDue(f.now())
	if !due {
		return true
	}
	if final {
		return false
	}
	if err := f.renewSelf(ctx, t); err != nil {
		return fault.Of(err).Outage() && t.alive(f.now()) // it still lives: the read tells more
	}
	due, _ = t.isDue(f.now())
	return !due
}

// renewSelf asks for as long a life as before.
func (f *fetch) renewSelf(ctx context.Context, t *token) (err error) {
	defer f.noteAccess(ctx, provider.AccessRenew, "", &err)()
	k := f.call(t, http.MethodPost, "auth/token/renew-self", nil, []byte("{}"))
	k.operation, k.renews, k.owner = endpoint.OpRenew, true, budget.Owner{}
	reply, err := f.client.do(ctx, k)
	if refusedRenewal(k, reply) {
		return fault.New(fault.Rejected, "renewing the Vault token: %w", err)
	}
	if err != nil {
		return fmt.Errorf("renewing the Vault token: %w", err)
	}
	var body struct {
		Auth *authInfo `json:"auth"`
	}
	empty := len(bytes.TrimSpace(reply.Body)) == 0 // as with status 204
	err = json.Unmarshal(reply.Body, &body)
	if empty || err == nil && body.Auth == nil {
		return fault.New(fault.Rejected, "renewing the Vault token: the answer of %s renews none", t.login.target.Address)
	}
	if err != nil {
		return fault.New(fault.BadAnswer, "renewing the Vault token: the answer of %s is not that of a renewal", t.login.target.Address)
	}
	t.extend(f.now(), body.Auth.ttl(), f.chance())
	return nil
}

// loginGroup logs in for the group. Where the answer shows that the identity
// is the pod's own, the token goes to the pod's group instead.
func (f *fetch) loginGroup(ctx context.Context, g *group) (*token, error) {
	if g.key.pod == "" && f.learned.isBound(g.key.login) {
		return nil, errPodBound
	}
	t, bound, err := f.login(ctx)
	if err != nil {
		return nil, err
	}
	if bound && g.key.pod == "" {
		f.learned.setBound(g.key.login)
		f.supersede(f.rejoin(), t)
		return nil, errPodBound
	}
	f.supersede(g, t)
	return t, nil
}

// supersede makes t the group's token. An earlier one that still lives is
// revoked with this volume, since others may be in the middle of using it.
func (f *fetch) supersede(g *group, t *token) {
	if old := g.login.Adopt(t); old != nil && old.alive(f.now()) {
		f.volume.Owe([]*token{old})
	}
}

// login logs in as the pod.
func (f *fetch) login(ctx context.Context) (t *token, bound bool, err error) {
	l := f.spec.login
	account, err := f.serviceAccountToken()
	if err != nil {
		return nil, false, err
	}
	defer f.noteAccess(ctx, provider.AccessLogin, "", &err)()
	body, err := json.Marshal(map[string]string{"role": l.role, "jwt": account.JWT.Reveal()})
	if err != nil {
		return nil, false, fault.New(fault.Internal, "logging in: the request cannot be written")
	}
	reply, err := f.client.do(ctx, call{
		endpoint: f.endpoint, operation: endpoint.OpLogin, namespace: l.namespace, tenant: f.request.Pod.Namespace, method: http.MethodPost, path: "auth/" + l.mount + "/login",
		body: body, mints: true, correlation: f.correlation, secrets: []secret.String{account.JWT}, owner: f.owner(),
	})
	if err != nil {
		return nil, false, singleflight.Own(f.explainLogin(err))
	}
	defer reply.Release()
	info, err := loginInfo(l, reply)
	if err != nil {
		return nil, false, singleflight.Own(f.explainLogin(err))
	}
	t = newToken(l, info, f.now(), f.chance())
	if info.byCertificate(l) && !f.config.AllowCertAuth {
		return nil, false, singleflight.Own(f.explainLogin(f.refuseCertificate(ctx, t)))
	}
	f.config.Logger.Debug("logged in", "pod", f.request.Pod.String(), "address", l.target.Address.String(), "mount", l.mount,
		"role", l.role, "jti", account.Claims.ID, "correlation", f.correlation)
	return t, info.podBound(l.sharing, f.request.Pod, account.Claims.ServiceAccountUID), nil
}

// noteAccess notes a login, or the renewal of a lease or else the token, for the
// audit trail, once the func that it returns is called.
func (f *fetch) noteAccess(ctx context.Context, operation, lease string, err *error) func() {
	began, l := time.Now(), f.spec.login
	return func() {
		now := time.Now()
		provider.NoteAccess(ctx, provider.Access{
			Operation: operation, Address: l.target.Address.String(), Namespace: l.namespace, Mount: l.mount, Role: l.role,
			Lease: lease, Asked: f.correlation, Err: *err, At: now, Took: now.Sub(began),
		})
	}
}

// refuseCertificate ends a token that came of a client certificate.
func (f *fetch) refuseCertificate(ctx context.Context, t *token) error {
	refused := fault.New(fault.NotAllowed, "the login went by the client certificate and not by the pod's service account token, which this node's operator does not allow").
		WithHint("name the auth mount of a kubernetes or jwt method, or have the operator set %s", setting.Name("--vault-allow-cert-auth"))
	if f.config.DisableRevocation {
		return refused
	}
	if err := f.revoke(ctx, t, f.request.Pod.Namespace, f.correlation); err != nil {
		f.volume.Owe([]*token{t}) // to be revoked with the volume
	}
	return refused
}

func loginInfo(l login, reply *endpoint.Reply) (authInfo, error) {
	var body struct {
		Auth *authInfo `json:"auth"`
	}
	switch {
	case json.Unmarshal(reply.Body, &body) != nil:
		return authInfo{}, fault.New(fault.BadAnswer, "the answer of %s is not Vault's JSON (%s, %d bytes)", l.target.Address, describeType(reply.ContentType), len(reply.Body))
	case body.Auth == nil:
		return authInfo{}, fault.New(fault.BadAnswer, "the answer of %s holds no Vault token", l.target.Address)
	case !isNull(body.Auth.MFA):
		return authInfo{}, fault.New(fault.Denied, "the role asks for a second factor").WithHint("a pod has none: except the role from login MFA")
	case body.Auth.Token == "" || endpoint.HasControl(body.Auth.Token):
		return authInfo{}, fault.New(fault.BadAnswer, "the answer of %s holds no usable Vault token", l.target.Address)
	}
	return *body.Auth, nil
}

// explainLogin adds what was attempted, as whom, and what to look at.
func (f *fetch) explainLogin(err error) error {
	l, pod := f.spec.login, f.request.Pod
	out := fault.New(reasonOfLogin(err), "logging in at auth mount %q as role %q%s, as service account %s/%s with a token for audience %q: %w",
		l.mount, l.role, f.inNamespace(), pod.Namespace, pod.ServiceAccount, l.audience, err)
	out.RetryAfter = fault.RetryAfter(err)
	var said *fault.Error
	if errors.As(err, &said) && said.Hint != "" {
		return out
	}
	return out.WithHint("%s", hintOfLogin(out.Reason, err.Error(), l, pod))
}

// reasonOfLogin tells a denial from a bare 403, which Vault answers for a login
// that it refuses, and also while it cannot ask Kubernetes about the token.
// Only with Vault's own words on why is it a denial for sure.
func reasonOfLogin(err error) fault.Reason {
	reason := fault.Of(err)
	words := strings.ToLower(err.Error())
	if reason != fault.Denied || strings.Contains(words, "second factor") || strings.Contains(words, "invalid audience") {
		return reason
	}
	// With "err=" it says that it could not look at the namespace's labels.
	if strings.Contains(words, "not authorized") && !strings.Contains(words, "err=") {
		return reason
	}
	return fault.Unverified
}

func hintOfLogin(reason fault.Reason, words string, l login, pod identity.Pod) string {
	words = strings.ToLower(words)
	says := func(part string) bool { return strings.Contains(words, part) }
	role := fmt.Sprintf("auth/%s/role/%s", l.mount, l.role)
	switch {
	case says("invalid role name"), says("role") && says("could not be found"):
		return "there is no " + role + ": create it, or correct spec.parameters.roleName"
	case says("could not load backend configuration"):
		return fmt.Sprintf("auth/%s/config was never written: write it with kubernetes_host, and for a Vault outside of the cluster with kubernetes_ca_cert and token_reviewer_jwt", l.mount)
	case says("service account name not authorized"):
		return fmt.Sprintf("bound_service_account_names of %s must hold %s", role, pod.ServiceAccount)
	case says("namespace not authorized"):
		return fmt.Sprintf("bound_service_account_namespaces of %s must hold %s", role, pod.Namespace)
	case says("audience"):
		return audienceHint(role, l)
	case reason == fault.Denied, reason == fault.Unverified:
		return fmt.Sprintf("is an auth method mounted at auth/%s, and can it verify service account tokens of this cluster? And %s", l.mount, audienceHint(role, l))
	}
	return ""
}

// audienceHint tells what must agree: the role, the class, and what the
// CSIDriver object has kubelet ask for.
func audienceHint(role string, l login) string {
	audience := l.audience
	if audience == identity.APIServer {
		audience = "one of the API server's own (its --api-audiences, by default the issuer)"
	}
	return fmt.Sprintf("the audience of %s must be %s, or spec.parameters.audience another one that is in the CSIDriver's tokenRequests", role, audience)
}
