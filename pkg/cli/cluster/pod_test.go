package cluster_test

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
)

func TestDriverFlags(t *testing.T) {
	got := cluster.DriverFlags(&corev1.Container{
		Args: []string{"--nodeid=n1", "-audit-log", "-", "--strict-classes", "--vault-addr", "https://vault.example:8200", "--vault-mount="},
		Env:  []corev1.EnvVar{{Name: "MAYFLY_AUDIT_LEVEL", Value: "all"}, {Name: "NODE_NAME", Value: "n1"}, {Name: "MAYFLY_VAULT_MOUNT", Value: "jwt"}},
	})
	want := map[string]string{
		"nodeid": "n1", "audit-log": "-", "strict-classes": "true", "vault-addr": "https://vault.example:8200", "vault-mount": "", "audit-level": "all",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
