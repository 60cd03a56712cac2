//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/vault/api"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	return s.Role(ctx, authMount, namespace, merge(map[string]any{
		"bound_service_account_names": account, "bound_service_account_namespaces": namespace,
		"audience": "vault", "token_policies": namespace, "token_ttl": "10m",
	}, change))
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
