//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	authMount = "kubernetes"
	kvMount   = "secret"
	// plainMount is a KV version 1 mount, which has no version numbers.
	plainMount = "plain"
	loginPath  = "auth/" + authMount + "/login"
	reviewer   = "token-reviewer"
	// marker is in every secret. Output that contains it leaks a secret.
	marker = "s3cr3t-marker-"
)

// store is a Vault on this machine, outside of the cluster.
type store struct{ *vaulttest.Server }

func startStore(ctx context.Context, out io.Writer) (*store, error) {
	server, err := vaulttest.Start(ctx, vaulttest.Options{Progress: out})
	if err != nil {
		return nil, err
	}
	return &store{server}, nil
}

// configureAuth enables the kubernetes auth method, which verifies service account tokens by the API
// server's TokenReviews.
func (s *store) configureAuth(ctx context.Context, e *environment) error {
	token, err := reviewerToken(ctx, e)
	if err != nil {
		return fmt.Errorf("making Vault's service account: %w", err)
	}
	ca, err := os.ReadFile(e.node.CAFile())
	if err != nil {
		return fmt.Errorf("reading the API server's CA: %w", err)
	}
	err = s.Client().Sys().EnableAuthWithOptionsWithContext(ctx, authMount, &api.EnableAuthOptions{Type: "kubernetes"})
	if err != nil {
		return fmt.Errorf("enabling the kubernetes auth method: %w", err)
	}
	err = s.Write(ctx, "auth/"+authMount+"/config", map[string]any{
		"kubernetes_host": e.node.Server(), "kubernetes_ca_cert": string(ca),
		"token_reviewer_jwt": token, "disable_local_ca_jwt": true,
	})
	if err != nil {
		return err
	}
	return errors.Join(s.EnableKV(ctx, kvMount, 2), s.EnableKV(ctx, plainMount, 1))
}

func reviewerToken(ctx context.Context, e *environment) (string, error) {
	const namespace = "default"
	accounts := e.api.CoreV1().ServiceAccounts(namespace)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: reviewer}}
	if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: reviewer},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: reviewer}},
	}
	if _, err := e.api.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	request, err := accounts.CreateToken(ctx, reviewer, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// allowLogin makes a role of the namespace's name for its service account. The role's policy allows it
// to read the namespace's secrets and no others.
func (s *store) allowLogin(ctx context.Context, namespace string, change map[string]any) error {
	const rule = "path %q { capabilities = [\"read\"] }\n"
	rules := fmt.Sprintf(rule+rule, kvMount+"/data/"+namespace+"/*", plainMount+"/"+namespace+"/*")
	if err := s.Policy(ctx, namespace, rules); err != nil {
		return err
	}
	return s.Bind(ctx, namespace, account, namespace, namespace, merge(map[string]any{"token_ttl": "10m"}, change))
}

// asTenant counts the requests since a mark that Vault granted on a path to
// the service accounts of a namespace.
func (s *store) asTenant(ctx context.Context, since vaulttest.Mark, path, namespace string) (int, error) {
	entries, err := s.AuditEntriesSince(ctx, since)
	count := 0
	for _, e := range entries {
		if e.Type == "response" && e.Error == "" && e.Path == path && e.Metadata["service_account_namespace"] == namespace {
			count++
		}
	}
	return count, err
}

const (
	gatewayAccessID = "p-e2e"
	gatewayConfig   = "e2e"
	gatewayAudience = "akeyless"
	// printVolume prints three files once, and then does the same as printChanges.
	printVolume = `cd /secrets && cat json && echo && cat db/user && echo && cat db/password && echo || exit 1
` + printChanges
)

// gateway is a double of an Akeyless gateway, outside of the cluster.
type gateway struct{ *akeylessd.Server }

func startGateway(ctx context.Context) (*gateway, error) {
	server, err := akeylessd.Start(ctx, akeylessd.Options{})
	if err != nil {
		return nil, fmt.Errorf("starting the Akeyless double: %w", err)
	}
	return &gateway{server}, nil
}

// configureAuth makes an auth method whose tokens the API server verifies.
func (g *gateway) configureAuth(ctx context.Context, e *environment) error {
	token, err := reviewerToken(ctx, e)
	if err != nil {
		return fmt.Errorf("making the gateway's service account: %w", err)
	}
	ca, err := os.ReadFile(e.node.CAFile())
	if err != nil {
		return fmt.Errorf("reading the API server's CA: %w", err)
	}
	g.AuthMethod(gatewayAccessID, akeylessd.Method{
		Type: "k8s", ConfigName: gatewayConfig, Audience: gatewayAudience,
		Cluster: &akeylessd.Cluster{Host: e.node.Server(), CA: ca, ReviewerToken: token},
	})
	return nil
}

func (c *tenant) item(name string) string { return "/" + c.ns + "/" + name }

// allowAtGateway allows only the tenant's service account to read its items.
func (c *tenant) allowAtGateway() {
	c.gateway.Allow(akeylessd.Rule{
		AccessID: gatewayAccessID, Prefix: c.item(""),
		Claims: map[string]string{"namespace": c.ns, "service_account_name": account},
	})
}

func (c *tenant) gatewayClass(name string, change map[string]string, objects ...map[string]any) {
	c.t.Helper()
	list, err := json.Marshal(objects) // which is YAML too
	testkit.Must(c.t, err)
	parameters := map[string]string{
		"akeylessGatewayURL": c.gateway.URL(), "akeylessAccessType": "k8s", "akeylessAccessID": gatewayAccessID,
		"akeylessK8sAuthConfigName": gatewayConfig, "objects": string(list),
	}
	maps.Copy(parameters, change)
	testkit.Must(c.t, c.createClass(c.t.Context(), map[string]any{
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"provider": "akeyless", "parameters": parameters},
	}))
}

// akeylessReads mounts a static secret, a key of a JSON secret and dynamic credentials, which are issued
// once and revoked after the pod's end.
func akeylessReads(c *tenant) {
	c.allowAtGateway()
	c.gateway.PutStatic(c.item("api"), marker+"one")
	c.gateway.PutStatic(c.item("config"), `{"db":{"password":"`+marker+`json"}}`)
	c.gateway.PutDynamic(c.item("db"), time.Hour)
	c.gatewayClass("akeyless", nil,
		map[string]any{"fileName": "password", "secretPath": c.item("api")},
		map[string]any{"fileName": "json", "secretPath": c.item("config"), "secretKey": "db.password"},
		map[string]any{"fileName": "db/user", "secretPath": c.item("db"), "secretType": "dynamic", "secretKey": "user"},
		map[string]any{"fileName": "db/password", "secretPath": c.item("db"), "secretType": "dynamic", "secretKey": "password"},
	)
	issuedBefore, aliveBefore := c.gateway.Credentials()
	pod := c.run(newPod("reader", printVolume, mounts("akeyless")))
	dynamic := c.filesOf(pod, "db/user", "db/password")
	want := marker + "json\n" + dynamic + marker + "one\n"
	c.awaitLog("reader", want)
	for _, value := range []string{"two", "three"} {
		c.gateway.PutStatic(c.item("api"), marker+value)
		want += marker + value + "\n"
		c.awaitLog("reader", want)
	}
	if now := c.filesOf(pod, "db/user", "db/password"); now != dynamic {
		c.t.Error("the dynamic credentials changed when another secret was rotated")
	}
	if issued, alive := c.gateway.Credentials(); issued != issuedBefore+1 || alive != aliveBefore+1 {
		c.t.Errorf("%d dynamic credentials were issued and %d are valid, want one", issued-issuedBefore, alive-aliveBefore)
	}
	c.delete("reader")
	c.awaitUnmounted(pod)
	c.until("the dynamic credentials to be revoked", func(context.Context) error {
		issued, alive := c.gateway.Credentials()
		return errors.Join(wantCount(issued, nil)(issuedBefore+1), wantCount(alive, nil)(aliveBefore))
	})
}

// filesOf returns the contents of files in the pod's volume, one per line.
func (c *tenant) filesOf(pod *corev1.Pod, names ...string) string {
	c.t.Helper()
	var text strings.Builder
	for _, name := range names {
		data := testkit.Value(os.ReadFile(filepath.Join(c.volume(pod, volumeName), name)))(c.t)
		if len(data) == 0 {
			c.t.Errorf("%s is empty", name)
		}
		text.Write(data)
		text.WriteByte('\n')
	}
	return text.String()
}

// akeylessRefuses starts a pod whose service account no rule allows, and one whose token has another
// audience than the auth method's.
func akeylessRefuses(c *tenant) {
	c.allowAtGateway()
	c.account("other-account")
	c.gateway.PutStatic(c.item("api"), marker+"one")
	password := map[string]any{"fileName": "password", "secretPath": c.item("api"), "secretType": "static"}
	c.gatewayClass("akeyless", nil, password)
	c.gatewayClass("foreign", map[string]string{"audience": "second"}, password)
	c.start(newPod("other-account", printOnce, as("other-account"), mounts("akeyless")))
	c.start(newPod("foreign", printOnce, mounts("foreign")))
	for pod, words := range map[string][]string{
		"other-account": {"access to item " + c.item("api") + " is denied"},
		"foreign":       {"unauthorized", `token audiences ["second"] is invalid for the target audiences ["akeyless"]`},
	} {
		c.awaitEvent(pod, mountFailed, words...)
		c.awaitEvent(pod, failedMount, append(words, "failed to mount secrets store objects for pod "+c.ns+"/"+pod)...)
		if pod := c.awaitPod(pod, isWaiting); pod.Status.ContainerStatuses[0].RestartCount > 0 {
			c.t.Errorf("the container of %s ran without its secrets", pod.Name)
		}
	}
	c.run(newPod("allowed", printOnce, mounts("akeyless")))
	c.awaitLog("allowed", marker+"one\n")
}
