package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/encryptionconfig"
	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const deploy = "../../../deploy/kms"

func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deploy, name))
	testkit.Must(t, err)
	return string(text)
}

// TestDeployed: the files of deploy/kms fit each other and the program.
func TestDeployed(t *testing.T) {
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	options := config.Register(flags)
	testkit.Must(t, flags.Parse([]string{"--config=" + filepath.Join(deploy, "config.yaml")}))
	c, err := options.Load(func(string) string { return "" })
	testkit.Must(t, err)
	if c.Serve.Socket != defaultSocket {
		t.Errorf("config.yaml listens at %s", c.Serve.Socket)
	}
	file, err := encryptionconfig.Parse([]byte(deployed(t, "encryption-config.yaml")))
	testkit.Must(t, err)
	if name, err := file.Name(probe.Scheme + c.Serve.Socket); name != defaultProvider || err != nil {
		t.Errorf("encryption-config.yaml: %q, %v", name, err)
	}
	if p := file.Rules[0].Providers[0]; p.Timeout <= c.Timing.CallTimeout {
		t.Errorf("the API server waits %s, the plugin %s", p.Timeout, c.Timing.CallTimeout)
	}
}

// TestStaticPod: the static pod has nothing that kubelet refuses, and no probe depends on Vault.
func TestStaticPod(t *testing.T) {
	var pod corev1.Pod
	testkit.Must(t, yaml.UnmarshalStrict([]byte(deployed(t, "static-pod.yaml")), &pod))
	container := pod.Spec.Containers[0]
	mounted := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath == nil {
			t.Errorf("volume %s is no path of the node", v.Name)
			continue
		}
		for _, m := range container.VolumeMounts {
			if m.Name == v.Name {
				mounted[m.MountPath] = v.HostPath.Path
			}
		}
	}
	for _, dir := range []string{filepath.Dir(defaultSocket), "/etc/mayfly-kms"} {
		if mounted[dir] != dir {
			t.Errorf("%s is mounted from %q", dir, mounted[dir])
		}
	}
	if pod.Spec.ServiceAccountName != "" || *pod.Spec.AutomountServiceAccountToken || !pod.Spec.HostNetwork || container.ReadinessProbe != nil {
		t.Errorf("%+v", pod.Spec)
	}
	if path := container.LivenessProbe.HTTPGet.Path; path != "/healthz" {
		t.Errorf("the liveness probe asks %s", path)
	}
	if code, out, errs := run(t, nil, append(container.Args[:1:1], "--help")...); code != 0 {
		t.Errorf("%d: %s%s", code, out, errs)
	}
}

// TestPolicy: the policy is the one that the script writes, and has no create.
func TestPolicy(t *testing.T) {
	_, script, _ := strings.Cut(deployed(t, "vault-setup.sh"), "<<POLICY\n")
	script, _, _ = strings.Cut(script, "POLICY\n")
	script = strings.NewReplacer("$transit", "transit", "$key", "kubernetes").Replace(script)
	policy := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(deployed(t, "policy.hcl"), "")
	if strings.TrimSpace(policy) != strings.TrimSpace(script) {
		t.Errorf("policy.hcl has\n%s\nand vault-setup.sh writes\n%s", policy, script)
	}
	if strings.Contains(policy, "create") {
		t.Error("create is granted")
	}
}

// TestUnit: systemd accepts the unit, and it starts before the API server's unit.
func TestUnit(t *testing.T) {
	unit := deployed(t, "mayfly-kms.service")
	testkit.Has(t, unit, "Before=kubelet.service k3s.service", "RuntimeDirectoryPreserve=yes", "Type=notify", "LimitMEMLOCK=infinity")
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	file := filepath.Join(t.TempDir(), "mayfly-kms.service")
	text := strings.Replace(unit, "/usr/local/bin/mayfly-kms", "/bin/true", 1)
	testkit.Must(t, os.WriteFile(file, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}
