package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// Login implements session.Session.
func (s *vaultSession) Login(ctx context.Context) (t *session.Token, podBound bool, err error) {
	c, l, pod := s.conn, s.conn.login, s.conn.Caller.Pod
	// 1. Send the pod's service account token for the audience to the auth method.
	account, err := c.Caller.Tokens.For(l.Audience, c.Now())
	if err != nil {
		return nil, false, fmt.Errorf("logging in to %s: %w", l.Address, err)
	}
	body, err := json.Marshal(map[string]string{"role": l.Role, "jwt": account.JWT.Reveal()})
	if err != nil {
		return nil, false, fault.New(fault.Internal, "logging in: the request cannot be written")
	}
	k := c.call(endpoint.OpLogin, nil, http.MethodPost, "auth/"+l.Mount+"/login", body)
	k.Issues = true
	reply, err := c.do(ctx, k)
	if err != nil {
		return nil, false, singleflight.Own(c.explainLogin(err))
	}
	defer reply.Release()
	// 2. Check that the answer has a token, and that the pod's own token was the reason.
	info, err := loginIn(reply, reply.Server(l.Address))
	if err != nil {
		return nil, false, singleflight.Own(c.explainLogin(err))
	}
	grant := info.grant()
	grant.At = reply.From
	t = session.NewToken(l, grant, c.Now(), c.Jitter())
	if byCertificate(info, l) && !s.allowCertAuth {
		left, err := c.refuseCertificate(ctx, t)
		return left, false, singleflight.Own(c.explainLogin(err))
	}
	c.Logger.Debug("logged in", logkey.Pod, pod.String(), logkey.Address, reply.Server(l.Address).String(), logkey.Mount, l.Mount,
		logkey.Role, l.Role, logkey.JTI, account.Claims.ID, logkey.Correlation, c.Caller.Correlation)
	// 3. Find out whether other pods of the service account may share the login.
	return t, isPodBound(info, l.Sharing, pod, account.Claims.ServiceAccountUID), nil
}

// refuseCertificate revokes a token that Vault gave for a client certificate. It returns
// the token if that failed.
func (c *conn) refuseCertificate(ctx context.Context, t *session.Token) (left *session.Token, refused error) {
	refused = fault.New(fault.NotAllowed, "the login went by the client certificate and not by the pod's service account token, which this node's operator does not allow").
		WithHint("name the auth mount of a kubernetes or jwt method, or have the operator set %s", setting.Name("--vault-allow-cert-auth"))
	if c.DisableRevocation || c.revokeSelf(ctx, t) == nil {
		return nil, refused
	}
	return t, refused
}

// explainLogin adds to an error what was attempted, the identity, and a hint.
func (c *conn) explainLogin(err error) error {
	l, pod := c.login, c.Caller.Pod
	out := fault.Wrap(reasonOfLogin(err), err, "logging in at auth mount %q as role %q%s, as service account %s/%s with a token for audience %q",
		l.Mount, l.Role, c.inNamespace(), pod.Namespace, pod.ServiceAccount, l.Audience)
	if fault.Hint(err) != "" {
		return out
	}
	return out.WithHint("%s", hintOfLogin(out.Reason, err.Error(), l, pod))
}

// reasonOfLogin distinguishes a denial from a 403 without a reason, which Vault also
// returns while it cannot ask Kubernetes about the token. Only with Vault's own reason it
// is certainly a denial.
func reasonOfLogin(err error) fault.Reason {
	reason := fault.Of(err)
	words := strings.ToLower(err.Error())
	if reason != fault.Denied || strings.Contains(words, "second factor") || strings.Contains(words, "invalid audience") {
		return reason
	}
	// With "err=" Vault could not read the namespace's labels.
	if strings.Contains(words, "not authorized") && !strings.Contains(words, "err=") {
		return reason
	}
	return fault.Unverified
}

func hintOfLogin(reason fault.Reason, words string, l login, pod identity.Pod) string {
	words = strings.ToLower(words)
	says := func(part string) bool { return strings.Contains(words, part) }
	role := fmt.Sprintf("auth/%s/role/%s", l.Mount, l.Role)
	switch {
	case says("invalid role name"), says("role") && says("could not be found"):
		return "there is no " + role + ": create it, or correct spec.parameters.roleName"
	case says("could not load backend configuration"):
		return fmt.Sprintf("auth/%s/config was never written: write it with kubernetes_host, and for a Vault outside of the cluster with kubernetes_ca_cert and token_reviewer_jwt", l.Mount)
	case says("service account name not authorized"):
		return fmt.Sprintf("bound_service_account_names of %s must hold %s", role, pod.ServiceAccount)
	case says("namespace not authorized"):
		return fmt.Sprintf("bound_service_account_namespaces of %s must hold %s", role, pod.Namespace)
	case says("audience"):
		return audienceHint(role, l)
	case reason == fault.Denied, reason == fault.Unverified:
		return fmt.Sprintf("is an auth method mounted at auth/%s, and can it verify service account tokens of this cluster? And %s", l.Mount, audienceHint(role, l))
	}
	return ""
}

// audienceHint names the three places that must have the same audience: the role, the
// class, and the CSIDriver object.
func audienceHint(role string, l login) string {
	audience := l.Audience
	if audience == identity.APIServer {
		audience = "one of the API server's own (its --api-audiences, by default the issuer)"
	}
	return fmt.Sprintf("the audience of %s must be %s, or spec.parameters.audience another one that is in the CSIDriver's tokenRequests", role, audience)
}

// isPodBound reports whether the login may depend on the pod, so that another pod of the
// service account might get other rights.
//
// The format of the answer of the kubernetes method shows that it does not. Nothing is
// known of other methods, unless the class says that they depend on the service account
// only. If the pod's name or UID is in the login's metadata, the login is not shared,
// whatever the class says.
func isPodBound(a authInfo, s sharing, pod identity.Pod, uid string) bool {
	for key, value := range a.Metadata {
		switch key {
		case "role", metaName, metaNamespace, metaSecret:
			continue // may be equal to the pod's name by chance
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

// byCertificate reports whether the cert method gave the token: it puts the certificate's
// role into the metadata. Without a client certificate it gives no token.
func byCertificate(a authInfo, l login) bool {
	return (l.TLS.ClientCertFile != "" || l.Fallback.TLS.ClientCertFile != "") && a.Metadata["cert_name"] != ""
}

// The metadata of a login with the kubernetes method.
const (
	metaUID       = "service_account_uid"
	metaName      = "service_account_name"
	metaNamespace = "service_account_namespace"
	metaSecret    = "service_account_secret_name"
)

// ofKubernetesMethod reports whether the login's metadata has the kubernetes method's
// form: all four keys, and no secret for a token from kubelet. A jwt role can map claims
// to each of these keys, but a token from kubelet has no empty claim for the last one.
func ofKubernetesMethod(a authInfo, pod identity.Pod, uid string) bool {
	secret, named := a.Metadata[metaSecret]
	return named && secret == "" && a.Metadata[metaUID] == uid &&
		a.Metadata[metaName] == pod.ServiceAccount && a.Metadata[metaNamespace] == pod.Namespace
}
