//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// mostRequests is the limit for explain in the docs.
const mostRequests = 20

func buildPlugin(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "mayfly-e2e-plugin-")
	if err != nil {
		return "", fmt.Errorf("making a scratch directory: %w", err)
	}
	path, err := toolcache.Program(ctx, io.Discard, dir, "./cmd/kubectl-mayfly")
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return path, nil
}

// admin is the user with all rights.
const admin = ""

// developer is a person with the rights of one namespace: pods, their events,
// the classes and the statuses.
func (c *tenant) developer() string {
	c.t.Helper()
	const name = "developer"
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "events"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{v1.GroupName}, Resources: []string{v1.SecretProviderClassResource, v1.SecretProviderClassPodStatusResource}, Verbs: []string{"get", "list"}},
	}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name + "-" + c.ns}},
	}
	_, err := c.api.RbacV1().Roles(c.ns).Create(c.t.Context(), role, metav1.CreateOptions{})
	_, err2 := c.api.RbacV1().RoleBindings(c.ns).Create(c.t.Context(), binding, metav1.CreateOptions{})
	for _, err := range []error{err, err2} {
		if !apierrors.IsAlreadyExists(err) {
			testkit.Must(c.t, err)
		}
	}
	return binding.Subjects[0].Name
}

// report is the output of kubectl mayfly explain.
type report struct {
	Checks   []finding.Check
	Findings []finding.Finding
	// code is the exit code, requests and millis are of --verbose.
	code, requests, millis int
	text                   string
}

var spent = regexp.MustCompile(`(?m)^(\d+) requests? in (\d+) ms$`)

// runExplain runs kubectl mayfly explain in the tenant's namespace.
func (c *tenant) runExplain(ctx context.Context, person, target string) (*report, error) {
	args := append([]string{"explain", target}, "--kubeconfig", c.node.Kubeconfig(), "-n", c.ns, "-o", "json", "--verbose")
	if person != admin {
		args = append(args, "--as", person)
	}
	cmd := exec.CommandContext(ctx, c.plugin, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	r := &report{}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			return nil, fmt.Errorf("running kubectl-mayfly %s: %w\n%s", strings.Join(args, " "), err, &errs)
		}
		r.code = exit.ExitCode()
	}
	r.text = out.String()
	if what := leaked(out.Bytes()); what != "" {
		return nil, fmt.Errorf("kubectl-mayfly printed %s", what)
	}
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		return nil, fmt.Errorf("decoding what kubectl-mayfly printed: %w\n%s", err, &out)
	}
	if m := spent.FindStringSubmatch(errs.String()); m != nil {
		r.requests, _ = strconv.Atoi(m[1])
		r.millis, _ = strconv.Atoi(m[2])
	}
	return r, nil
}
