package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/encryptionconfig"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/pkg/kms/telemetry"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var update = flag.Bool("update", false, "write docs/kms-reference.md")

const pageFile = "../../../docs/kms-reference.md"

// pageHead and pageTail are not generated from the code.
const pageHead = `# mayfly-kms reference

Settings, answers, metrics and audit lines of ` + "`mayfly-kms serve`" + `. ` + "`go test ./pkg/kms/cli -update`" + ` generates this page.

## Settings

Each setting is a flag, an environment variable, or a line of the YAML file of ` + "`--config`" + `. A flag overrides the environment, and the environment overrides the file. Separate the elements of a list by commas, or write a YAML list in the file. An unknown name in the file is an error with its line. ` + "`mayfly-kms serve`" + ` exits with code 2 if the settings are invalid, 1 if the socket cannot be created or served, and 0 after SIGTERM.

| Flag | Environment | File | Default | |
|---|---|---|---|---|
`

const pageMiddle = `
## What Status answers

The plugin answers Status from memory. It reads the key's versions from Vault every ` + "`--poll-interval`" + `, and makes a round trip every ` + "`--proof-interval`" + `: with the renewals of the login at most 4 requests a minute.

| | key id | health | Encrypt | Decrypt |
|---|---|---|---|---|
| before the first round trip | an error | an error | an error | by Vault |
| everything works | of the latest version | ` + "`ok`" + ` | with that version | from memory, or by Vault |
| Vault is away, for up to two ` + "`--poll-interval`" + `s and a call | unchanged | ` + "`ok`" + ` | from memory; without the local key an error | seeds in memory |
| Vault is away for longer, or refuses the login or the key | unchanged | the error and its start | the same | the same |
| ` + "`--outage-limit`" + ` is over | an error | an error | an error | by Vault |
| the key was rotated | the old one until a round trip with the new version succeeds | ` + "`ok`" + ` | with the announced version | any version |
| the key was deleted, created again, or lost versions | unchanged | the error | refused, so an API server that starts can read nothing | seeds in memory, or by Vault if it can |
| the key was restored from its backup, with all versions | a new one | ` + "`ok`" + ` | with the latest version | any version |

A key id is ` + "`mayfly-1-v3-` and 32 digits" + `, here for version 3 of the Transit key. The digits are a hash of the cluster's id, the key's name and type, the version, the times when the version was created and the key was restored, and ` + "`--key-epoch`" + `. Every node computes the same id, without state.

A restart of mayfly-kms itself while Vault is away loses the keys in memory. A running API server can then still read from its own memory, and its writes fail 3 minutes after the last good Status; an API server that starts can read no Secret until Vault is back. No key is ever written to a disk.

## Metrics

On ` + "`--metrics-addr`" + `, with the metrics of the Go runtime and the process. ` + "`key_id_hash`" + ` is the hash of a key id in the API server's metrics.

| Metric | Labels | |
|---|---|---|
`

const pageTail = `
## Audit lines

One JSON line for each Encrypt and Decrypt, in ` + "`--audit-log`" + `. A line never contains a seed, a ciphertext or a token. A few lines a day are normal: an API server sends one call for each seed when it starts, and one a day after that. Alert on a burst: a process that can connect to the socket can decrypt every seed in etcd.

| Field | |
|---|---|
| ` + "`apiVersion`" + ` | ` + "`audit.mayfly.dev/v1`" + `, as in the driver's [audit trail](audit.md) |
| ` + "`time`, `node`" + ` | when, and on which node |
| ` + "`event`" + ` | ` + "`encrypt` or `decrypt`" + ` |
| ` + "`outcome`, `reason`, `error`" + ` | ` + "`success` or `failure`" + `, and why |
| ` + "`uid`" + ` | the API server's id of the call, which it logs at ` + "`-v=6`" + ` next to the name of the object |
| ` + "`keyID`" + ` | the key id that was used or requested |
| ` + "`peer`" + ` | ` + "`pid`, `uid` and `gid`" + ` of the calling process, from the kernel; the pid is 0 for a process in another pid namespace |
| ` + "`answeredBy`" + ` | ` + "`vault`, `memory`, or `local-key`" + ` for the key in memory |
| ` + "`correlationIDs`" + ` | the ` + "`X-Correlation-ID`" + ` of the request to Vault for the answer, in Vault's audit log under ` + "`request.headers`" + `: the uid of the call that made it, or an id that begins with ` + "`mayfly-kms-`" + ` for the round trip with the local key |
| ` + "`durationMS`" + ` | duration in milliseconds |
| ` + "`lost`" + ` | how many lines before this one were lost |
| ` + "`chain`" + ` | the line's place in [the chain](audit.md#the-chain), which ` + "`mayfly-node audit verify`" + ` verifies; a start begins a new chain after the file's last line |
`

// page is docs/kms-reference.md.
func page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.SortFlags = false
	config.Register(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		_, usage := pflag.UnquoteUsage(f)
		usage, _, _ = strings.Cut(usage, " ["+config.EnvName(f.Name))
		value, file := "", "`"+config.YAMLName(f.Name)+"`"
		if f.DefValue != "" && f.DefValue != "[]" {
			value = "`" + f.DefValue + "`"
		}
		if f.Name == config.FlagConfig {
			file = ""
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s | %s |\n", f.Name, config.EnvName(f.Name), file, value, strings.ReplaceAll(usage, "\n", " "))
	})
	b.WriteString(pageMiddle)
	for _, m := range metrics() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m[0], m[2], m[1])
	}
	b.WriteString(pageTail)
	return b.String()
}

// metrics are the names, helps and labels of the plugin's own metrics.
func metrics() [][3]string {
	m := telemetry.New("test")
	m.Watch(func() plugin.Condition { return plugin.Condition{} }, time.Hour)
	described := make(chan *prometheus.Desc)
	go func() {
		defer close(described)
		m.Describe(described)
	}()
	form := regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)", .*variableLabels: \{([^}]*)\}`)
	var all [][3]string
	for d := range described {
		match := form.FindStringSubmatch(d.String())
		if match == nil || !strings.HasPrefix(match[1], "mayfly_") {
			continue
		}
		labels := ""
		if match[3] != "" {
			labels = "`" + strings.ReplaceAll(match[3], ",", "`, `") + "`"
		}
		all = append(all, [3]string{match[1], match[2], labels})
	}
	slices.SortFunc(all, func(a, b [3]string) int { return strings.Compare(a[0], b[0]) })
	return all
}

func TestPage(t *testing.T) {
	if n := len(metrics()); n < 15 {
		t.Fatalf("the test sees %d metrics", n)
	}
	if *update {
		testkit.Must(t, os.WriteFile(pageFile, []byte(page()), 0o600))
	}
	got, err := os.ReadFile(pageFile)
	if err != nil || string(got) != page() {
		t.Errorf("docs/kms-reference.md differs from the code: run go test ./pkg/kms/cli -update (%v)", err)
	}
}

const deploy = "../../../deploy/kms"

func deployed(t *testing.T, name string) string {
	t.Helper()
	text := testkit.Value(os.ReadFile(filepath.Join(deploy, name)))(t)
	return string(text)
}

// TestDeployed: the files of deploy/kms fit each other and the program.
func TestDeployed(t *testing.T) {
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	options := config.Register(flags)
	testkit.Must(t, flags.Parse([]string{"--config=" + filepath.Join(deploy, "config.yaml")}))
	c := testkit.Value(options.Load(func(string) string { return "" }))(t)
	testkit.Equal(t, "the socket of config.yaml", c.Serve.Socket, defaultSocket)
	file := testkit.Value(encryptionconfig.Parse([]byte(deployed(t, "encryption-config.yaml"))))(t)
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
		testkit.Equal(t, "the mount of "+dir, mounted[dir], dir)
	}
	if pod.Spec.ServiceAccountName != "" || *pod.Spec.AutomountServiceAccountToken || !pod.Spec.HostNetwork || container.ReadinessProbe != nil {
		t.Errorf("%+v", pod.Spec)
	}
	testkit.Equal(t, "the path of the liveness probe", container.LivenessProbe.HTTPGet.Path, "/healthz")
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
	testkit.Equal(t, "policy.hcl, and what vault-setup.sh writes", strings.TrimSpace(policy), strings.TrimSpace(script))
	testkit.Lacks(t, policy, "create")
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
