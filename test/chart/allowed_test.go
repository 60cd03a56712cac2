package chart

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func container(t *testing.T, set ...string) corev1.Container {
	t.Helper()
	return decode(t, render(t, newest, set...)).daemonSets[0].Spec.Template.Spec.Containers[0]
}

// TestAllowedAddresses: with a default server and no list, classes may name no other; "*" means
// any.
func TestAllowedAddresses(t *testing.T) {
	stores := map[string]struct{ own, list, flag string }{
		"vault":    {"vault.address", "vault.allowedAddresses", "--vault-allowed-addresses="},
		"akeyless": {"akeyless.gatewayURL", "akeyless.allowedAddresses", "--akeyless-allowed-addresses="},
	}
	tests := []struct{ name, own, list, want string }{
		{"neither", "", `[]`, ""},
		{"the server alone", "https://store.test:8200", `[]`, "https://store.test:8200"},
		{"a path is no part of a list", "https://store.test/a/b", `[]`, "https://store.test"},
		{"a list", "https://store.test", `["https://other.test"]`, "https://other.test"},
		{"any", "https://store.test", `["*"]`, ""},
	}
	for store, s := range stores {
		for _, tt := range tests {
			t.Run(store+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				var got string
				for _, arg := range container(t, "--set", s.own+"="+tt.own, "--set-json", s.list+"="+tt.list).Args {
					if value, ok := strings.CutPrefix(arg, s.flag); ok {
						got = value
					}
				}
				if got != tt.want {
					t.Errorf("%s%q, want %q", s.flag, got, tt.want)
				}
			})
		}
	}
}

// TestHealthAddress: the probes ask where the driver listens.
func TestHealthAddress(t *testing.T) {
	for address, want := range map[string]string{"": ":9808", "127.0.0.1": "127.0.0.1:9808", "::1": "[::1]:9808"} {
		c := container(t, "--set", "linux.hostNetwork=true,health.address="+address)
		if arg := "--health-addr=" + want; !slices.Contains(c.Args, arg) {
			t.Errorf("no argument %s in %q", arg, c.Args)
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if probe.HTTPGet.Host != address {
				t.Errorf("a probe asks host %q, want %q", probe.HTTPGet.Host, address)
			}
		}
	}
}

// TestGoodIntervalsAndLimits: the schema refuses only what would crash.
func TestGoodIntervalsAndLimits(t *testing.T) {
	for _, interval := range []string{"1s", "1500ms", "0.5m", "1h30m", "0h1m", "1m0s", "90s"} {
		render(t, newest, "--set", "refresh.interval="+interval+",refresh.minInterval="+interval)
	}
	for _, limit := range []string{"64Mi", "1Gi", "192M", "67108864", "0.5Gi", "134217728000m"} {
		render(t, newest, "--set-string", "linux.driver.resources.limits.memory="+limit)
	}
	render(t, newest, "--set-json", "linux.driver.resources.limits=null")
	render(t, newest, "--set", "linux.extraArgs[0]=--log-level=debug")
}

// TestHelmTest: the test pod has the driver's own image and command line, and no label by which the
// DaemonSet or a monitor would select it.
func TestHelmTest(t *testing.T) {
	all := decode(t, renderSet(t, "everything"))
	if len(all.pods) != 1 || all.pods[0].Annotations["helm.sh/hook"] != "test" {
		t.Fatalf("%d pods, want one that is a test", len(all.pods))
	}
	got, want := all.pods[0].Spec.Containers[0], all.daemonSets[0].Spec.Template.Spec.Containers[0]
	if got.Image != want.Image || !slices.Equal(got.Args, append(want.Args, "--version")) {
		t.Errorf("the test runs %s %q", got.Image, got.Args)
	}
	for label := range all.daemonSets[0].Spec.Selector.MatchLabels {
		if _, ok := all.pods[0].Labels[label]; ok {
			t.Errorf("the test pod has the DaemonSet's label %s", label)
		}
	}
}
