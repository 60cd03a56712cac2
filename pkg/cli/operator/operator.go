// Package operator reads the store settings of mayfly-node, from the command line and the
// environment of the driver's pods: the defaults for classes, and the limits for classes.
package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// Settings are a driver's store settings. The caller sets the names of Vault's flavours.
type Settings struct {
	Vault    vault.Config
	Akeyless akeyless.Config
	// SyncSecrets says that the driver writes the Kubernetes Secrets of classes.
	SyncSecrets bool
	// Hidden are relevant environment variables whose values the manifest does not show.
	Hidden []string
}

// setting is one flag.
type setting struct {
	name    string
	env     []string // besides MAYFLY_<NAME>
	boolean bool
	set     func(s *Settings, text string)
}

func text(to func(*Settings) *string) func(*Settings, string) {
	return func(s *Settings, value string) { *to(s) = value }
}

func truth(to func(*Settings) *bool) func(*Settings, string) {
	return func(s *Settings, value string) { *to(s), _ = strconv.ParseBool(value) }
}

func words(to func(*Settings) *[]string) func(*Settings, string) {
	return func(s *Settings, value string) {
		*to(s) = nil
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*to(s) = append(*to(s), item)
			}
		}
	}
}

// settings are the flags of mayfly-node about stores. A test of cmd/mayfly-node compares them with
// the real flags.
func settings() []setting {
	both := func(name string) []string { return []string{"BAO_" + name, "VAULT_" + name} }
	return []setting{
		{"vault-addr", both("ADDR"), false, text(func(s *Settings) *string { return &s.Vault.DefaultAddress })},
		{"vault-fallback-addr", nil, false, text(func(s *Settings) *string { return &s.Vault.DefaultFallback })},
		{"vault-namespace", both("NAMESPACE"), false, text(func(s *Settings) *string { return &s.Vault.DefaultNamespace })},
		{"vault-mount", nil, false, text(func(s *Settings) *string { return &s.Vault.DefaultAuthMount })},
		{"vault-audience", nil, false, text(func(s *Settings) *string { return &s.Vault.DefaultAudience })},
		{"vault-tls-ca-cert", both("CACERT"), false, text(func(s *Settings) *string { return &s.Vault.DefaultTLS.CACertFile })},
		{"vault-tls-ca-directory", both("CAPATH"), false, text(func(s *Settings) *string { return &s.Vault.DefaultTLS.CACertDir })},
		{"vault-tls-server-name", both("TLS_SERVER_NAME"), false, text(func(s *Settings) *string { return &s.Vault.DefaultTLS.ServerName })},
		{"vault-tls-client-cert", both("CLIENT_CERT"), false, text(func(s *Settings) *string { return &s.Vault.DefaultTLS.ClientCertFile })},
		{"vault-tls-client-key", both("CLIENT_KEY"), false, text(func(s *Settings) *string { return &s.Vault.DefaultTLS.ClientKeyFile })},
		{"vault-tls-skip-verify", both("SKIP_VERIFY"), true, truth(func(s *Settings) *bool { return &s.Vault.DefaultTLS.SkipVerify })},
		{"vault-allowed-addresses", nil, false, words(func(s *Settings) *[]string { return &s.Vault.AllowedAddresses })},
		{"vault-allowed-auth-mounts", nil, false, words(func(s *Settings) *[]string { return &s.Vault.AllowedAuthMounts })},
		{"vault-allow-cert-auth", nil, true, truth(func(s *Settings) *bool { return &s.Vault.AllowCertAuth })},
		{"vault-forbid-skip-verify", nil, true, truth(func(s *Settings) *bool { return &s.Vault.ForbidSkipVerify })},
		{"allow-local-addresses", nil, true, truth(func(s *Settings) *bool { return &s.Vault.AllowLocalAddresses })},
		{"class-file-dirs", nil, false, words(func(s *Settings) *[]string { return &s.Vault.ClassFileDirs })},
		{"akeyless-gateway-url", nil, false, text(func(s *Settings) *string { return &s.Akeyless.DefaultGateway })},
		{"akeyless-fallback-gateway-url", nil, false, text(func(s *Settings) *string { return &s.Akeyless.DefaultFallback })},
		{"akeyless-access-id", nil, false, text(func(s *Settings) *string { return &s.Akeyless.DefaultAccessID })},
		{"akeyless-k8s-auth-config", nil, false, text(func(s *Settings) *string { return &s.Akeyless.DefaultK8sAuthConfigName })},
		{"akeyless-audience", nil, false, text(func(s *Settings) *string { return &s.Akeyless.DefaultAudience })},
		{"akeyless-tls-ca-cert", nil, false, text(func(s *Settings) *string { return &s.Akeyless.DefaultTLS.CACertFile })},
		{"akeyless-allowed-addresses", nil, false, words(func(s *Settings) *[]string { return &s.Akeyless.AllowedAddresses })},
		{"sync-secrets", nil, true, truth(func(s *Settings) *bool { return &s.SyncSecrets })},
		{"akeyless-forbid-skip-verify", nil, true, truth(func(s *Settings) *bool { return &s.Akeyless.ForbidSkipVerify })},
	}
}

// Parse reads a command line and an environment as the driver does: the command line wins. It
// ignores other flags.
func Parse(args []string, env map[string]string) Settings {
	var s Settings
	given := map[string]bool{}
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(args[i], "-"), "-"), "=")
		f, ok := find(name)
		if !ok || !strings.HasPrefix(args[i], "-") {
			continue
		}
		switch {
		case joined:
		case f.boolean:
			value = "true"
		case i+1 < len(args):
			i++
			value = args[i]
		}
		given[name] = true
		f.set(&s, value)
	}
	for _, f := range settings() {
		if given[f.name] {
			continue
		}
		for _, name := range f.variables() {
			if value := env[name]; value != "" {
				f.set(&s, value)
				break
			}
		}
	}
	s.Akeyless.ClassFileDirs, s.Akeyless.AllowLocalAddresses = s.Vault.ClassFileDirs, s.Vault.AllowLocalAddresses
	return s
}

func find(name string) (setting, bool) {
	for _, f := range settings() {
		if f.name == name {
			return f, true
		}
	}
	return setting{}, false
}

func (f setting) variables() []string {
	return append([]string{"MAYFLY_" + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))}, f.env...)
}

// Read finds the driver's DaemonSet in a namespace and reads its flags; false if there is none.
func Read(ctx context.Context, c *cluster.Client, namespace string) (s Settings, found bool, err error) {
	list, err := c.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.DriverLabels})
	if err != nil {
		return s, false, fmt.Errorf("listing the driver's DaemonSets: %w", err)
	}
	for i := range list.Items {
		if s, ok := of(&list.Items[i], c.DriverName); ok {
			return s, true, nil
		}
	}
	return s, false, nil
}

// Look is Read in the namespace of the CSIDriver object, and reports what it could not read. Then
// the defaults are those without flags.
func Look(ctx context.Context, c *cluster.Client, report *finding.Report) Settings {
	driver, _ := c.CSIDriver(ctx) // without it the default namespace is used
	namespace := c.DriverNamespace(driver)
	s, found, err := Read(ctx, c, namespace)
	about := finding.Object{Kind: "DaemonSet", Namespace: namespace}
	switch {
	case err != nil:
		cluster.NotSeen(report, about, err)
	case !found:
		cluster.NotSeen(report, about, errors.New("the namespace has none of the driver, so its flags are unknown: pass its namespace with --driver-namespace"))
	case len(s.Hidden) > 0:
		cluster.NotSeen(report, about, fmt.Errorf("the manifest does not show the values of the variables %s", strings.Join(s.Hidden, ", ")))
	}
	return s
}

// of reads a DaemonSet if it belongs to the driver of that name.
func of(d *appsv1.DaemonSet, driver string) (s Settings, ok bool) {
	for i := range d.Spec.Template.Spec.Containers {
		k := &d.Spec.Template.Spec.Containers[i]
		if k.Name != cluster.DriverContainerName {
			continue
		}
		s, args := container(k)
		name := cluster.DefaultDriver
		for n, a := range args {
			value, is := strings.CutPrefix(strings.TrimPrefix(a, "-"), "-driver-name=")
			switch {
			case is:
				name = value
			case strings.TrimLeft(a, "-") == "driver-name" && n+1 < len(args):
				name = args[n+1]
			}
		}
		if name != driver {
			continue
		}
		return s, true
	}
	return s, false
}

// OfPod reads the pod of a driver; false if it has no driver's container.
func OfPod(p *corev1.Pod) (s Settings, ok bool) {
	k := cluster.DriverContainer(&p.Spec)
	if k == nil {
		return s, false
	}
	s, _ = container(k)
	return s, true
}

// container reads the driver's container, and returns its command line.
func container(k *corev1.Container) (s Settings, args []string) {
	env, hidden := environment(k)
	args = expand(slices.Concat(k.Command, k.Args), env)
	s = Parse(args, env)
	s.Hidden = hidden
	return s, args
}

// environment returns a container's variables; hidden are the relevant ones whose value is not in
// the manifest.
func environment(k *corev1.Container) (env map[string]string, hidden []string) {
	env = map[string]string{}
	counts := map[string]bool{}
	for _, f := range settings() {
		for _, name := range f.variables() {
			counts[name] = true
		}
	}
	for _, e := range k.Env {
		switch {
		case e.ValueFrom == nil:
			env[e.Name] = e.Value
		case counts[e.Name]:
			hidden = append(hidden, e.Name)
		}
	}
	return env, hidden
}

// expand expands variables in arguments, as kubelet does.
func expand(args []string, env map[string]string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		for name, value := range env {
			a = strings.ReplaceAll(a, "$("+name+")", value)
		}
		out[i] = a
	}
	return out
}
