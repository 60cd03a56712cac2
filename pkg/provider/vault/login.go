package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// Login implements session.Session.
func (s *vaultSession) Login(ctx context.Context) (t *session.Token, podBound bool, err error) {
	c, l, pod := s.conn, s.conn.login, s.conn.caller.Pod
	// 1. The pod's service account token for the audience is sent to the auth method.
	account, err := c.caller.Tokens.For(l.audience, c.now())
	if err != nil {
		return nil, false, fmt.Errorf("logging in to %s: %w", l.target.Address, err)
	}
	body, err := json.Marshal(map[string]string{"role": l.role, "jwt": account.JWT.Reveal()})
	if err != nil {
		return nil, false, fault.New(fault.Internal, "logging in: the request cannot be written")
	}
	reply, err := c.client.do(ctx, call{
		endpoint: c.endpoint, operation: endpoint.OpLogin, namespace: l.namespace, tenant: pod.Namespace, method: http.MethodPost, path: "auth/" + l.mount + "/login",
		body: body, issues: true, correlation: c.caller.Correlation, secrets: []secret.String{account.JWT}, owner: c.caller.Owner(),
	})
	if err != nil {
		return nil, false, singleflight.Own(c.explainLogin(err))
	}
	defer reply.Release()
	// 2. The answer must hold a token that the pod's own token has earned.
	info, err := loginIn(reply, l.target.Address)
	if err != nil {
		return nil, false, singleflight.Own(c.explainLogin(err))
	}
	t = session.NewToken(l, info.grant(), c.now(), c.settings.Jitter())
	if byCertificate(info, l) && !c.client.config.AllowCertAuth {
		left, err := c.refuseCertificate(ctx, t)
		return left, false, singleflight.Own(c.explainLogin(err))
	}
	c.settings.Logger.Debug("logged in", logkey.Pod, pod.String(), logkey.Address, l.target.Address.String(), logkey.Mount, l.mount,
		logkey.Role, l.role, logkey.JTI, account.Claims.ID, logkey.Correlation, c.caller.Correlation)
	// 3. What the answer says of the login tells whether other pods of the service
	//    account may share it.
	return t, isPodBound(info, l.sharing, pod, account.Claims.ServiceAccountUID), nil
}

// refuseCertificate ends a token that came of a client certificate. It returns
// the token where it could not.
func (c *conn) refuseCertificate(ctx context.Context, t *session.Token) (left *session.Token, refused error) {
	refused = fault.New(fault.NotAllowed, "the login went by the client certificate and not by the pod's service account token, which this node's operator does not allow").
		WithHint("name the auth mount of a kubernetes or jwt method, or have the operator set %s", setting.Name("--vault-allow-cert-auth"))
	if c.settings.DisableRevocation || c.revokeSelf(ctx, t) == nil {
		return nil, refused
	}
	return t, refused
}

// explainLogin adds what was attempted, as whom, and what to look at.
func (c *conn) explainLogin(err error) error {
	l, pod := c.login, c.caller.Pod
	out := fault.New(reasonOfLogin(err), "logging in at auth mount %q as role %q%s, as service account %s/%s with a token for audience %q: %w",
		l.mount, l.role, c.inNamespace(), pod.Namespace, pod.ServiceAccount, l.audience, err)
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

// isPodBound tells whether the store took the login for more than that of the
// service account, so that another of its pods could be answered otherwise.
//
// The kubernetes method shows that it did not, by the way it describes a
// login. Of other methods nothing is known, unless the class says that they go
// by the service account. Where a pod's name or UID shows in the login's
// metadata nothing is shared, whatever the class says.
func isPodBound(a authInfo, s sharing, pod identity.Pod, uid string) bool {
	for key, value := range a.Metadata {
		switch key {
		case "role", metaName, metaNamespace, metaSecret:
			continue // may well be the same word as the pod's name
		}
		if value != "" && (value == pod.UID || value == pod.Name) {
			return true
		}
	}
	switch s {
	case sharePod:
		return true
	case shareServiceAccount:
		return uid == ""
	}
	return uid == "" || !ofKubernetesMethod(a, pod, uid)
}

// byCertificate tells whether the cert method gave the token: it names the
// certificate's role in the metadata. Without a client certificate it gives none.
func byCertificate(a authInfo, l login) bool {
	return l.target.TLS.ClientCertFile != "" && a.Metadata["cert_name"] != ""
}

// The metadata of a login through the kubernetes method.
const (
	metaUID       = "service_account_uid"
	metaName      = "service_account_name"
	metaNamespace = "service_account_namespace"
	metaSecret    = "service_account_secret_name"
)

// ofKubernetesMethod tells whether the login is described as the kubernetes
// method does it: with all four keys, always, and without a secret for a token
// that kubelet passed. A jwt role can map claims to any of these keys, but a
// token of kubelet's has no empty claim for the last.
func ofKubernetesMethod(a authInfo, pod identity.Pod, uid string) bool {
	secret, named := a.Metadata[metaSecret]
	return named && secret == "" && a.Metadata[metaUID] == uid &&
		a.Metadata[metaName] == pod.ServiceAccount && a.Metadata[metaNamespace] == pod.Namespace
}
