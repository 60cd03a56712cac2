package explain

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/lint"
	"github.com/mayfly-csi/mayfly/pkg/cli/operator"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// flagsOf are the flags of the driver's pod on the node; nil if they could not be read.
func flagsOf(p *corev1.Pod) map[string]string {
	if p == nil {
		return nil
	}
	if c := cluster.DriverContainer(&p.Spec); c != nil {
		return cluster.DriverFlags(c)
	}
	return nil
}

// operatorOf is the operator's settings in the flags of the driver's pod; nil if they are unknown.
// Files that they name are on the node.
func operatorOf(p *corev1.Pod) *lint.Operator {
	if p == nil {
		return nil
	}
	s, ok := operator.OfPod(p)
	if !ok {
		return nil
	}
	return &lint.Operator{
		SyncSecrets: s.SyncSecrets,
		Vault: vault.Config{
			DefaultAddress: s.Vault.DefaultAddress, Servers: endpoint.Servers{DefaultFallback: s.Vault.DefaultFallback}, DefaultNamespace: s.Vault.DefaultNamespace,
			DefaultAuthMount: s.Vault.DefaultAuthMount, DefaultAudience: s.Vault.DefaultAudience,
		},
		Akeyless: akeyless.Config{
			DefaultGateway: s.Akeyless.DefaultGateway, Servers: endpoint.Servers{DefaultFallback: s.Akeyless.DefaultFallback}, DefaultAccessID: s.Akeyless.DefaultAccessID,
			DefaultK8sAuthConfigName: s.Akeyless.DefaultK8sAuthConfigName, DefaultAudience: s.Akeyless.DefaultAudience,
		},
	}
}
