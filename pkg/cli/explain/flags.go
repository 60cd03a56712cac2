package explain

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/lint"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// flags are those of the driver, as its pod on the node has them; nil where
// nobody could look.
type flags map[string]string

// driverContainer is what the chart calls it.
const driverContainer = "mayfly-node"

// flagsOf reads the arguments of the driver's container, and its environment.
func flagsOf(p *corev1.Pod) flags {
	if p == nil {
		return nil
	}
	i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == driverContainer })
	if i < 0 {
		return nil
	}
	f := flags{}
	c := &p.Spec.Containers[i]
	for _, e := range c.Env {
		f["$"+e.Name] = e.Value
	}
	for _, arg := range slices.Concat(c.Command, c.Args) {
		if name, ok := strings.CutPrefix(arg, "--"); ok {
			name, value, _ := strings.Cut(name, "=")
			f[name] = value
		}
	}
	return f
}

// get is a flag's value: the command line comes before the environment.
func (f flags) get(flag string, environment ...string) string {
	value := cmp.Or(f[flag], f["$MAYFLY_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))])
	for _, name := range environment {
		value = cmp.Or(value, f["$"+name])
	}
	return value
}

// operator is what the flags say for classes that do not; nil where the flags
// are not known.
func (f flags) operator() *lint.Operator {
	if f == nil {
		return nil
	}
	return &lint.Operator{
		Vault: vault.Config{
			DefaultAddress:   f.get("vault-addr", "BAO_ADDR", "VAULT_ADDR"),
			DefaultNamespace: f.get("vault-namespace", "BAO_NAMESPACE", "VAULT_NAMESPACE"),
			DefaultAuthMount: f.get("vault-mount"),
			DefaultAudience:  f.get("vault-audience"),
		},
		Akeyless: akeyless.Config{
			DefaultGateway:           f.get("akeyless-gateway-url"),
			DefaultAccessID:          f.get("akeyless-access-id"),
			DefaultK8sAuthConfigName: f.get("akeyless-k8s-auth-config"),
			DefaultAudience:          f.get("akeyless-audience"),
		},
	}
}
