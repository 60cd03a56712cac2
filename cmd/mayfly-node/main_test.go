package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/cli/operator"
	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func noEnv(string) string { return "" }

func env(pairs map[string]string) func(string) string {
	return func(k string) string { return pairs[k] }
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		args  []string
		env   map[string]string
		check func(o *options) bool
	}{
		{"defaults", nil, nil, func(o *options) bool {
			c := o.config
			return c.Driver == "secrets-store.csi.k8s.io" && c.Interval == 2*time.Minute && c.SizeLimit == 16<<20 &&
				c.InodeLimit == 1024 && c.KubeQPS == 50 && c.Vault.Name == "vault" && c.OpenBao.Name == "openbao"
		}},
		{"own variable", nil, map[string]string{"MAYFLY_ROTATION_POLL_INTERVAL": "30s"}, func(o *options) bool { return o.config.Interval == 30*time.Second }},
		{"command line wins", []string{"--nodeid=a"}, map[string]string{"MAYFLY_NODEID": "b", "NODE_NAME": "c"}, func(o *options) bool { return o.config.NodeID == "a" }},
		{"own variable before others", nil, map[string]string{"MAYFLY_NODEID": "b", "NODE_NAME": "c"}, func(o *options) bool { return o.config.NodeID == "b" }},
		{"Vault's variables", nil, map[string]string{"VAULT_ADDR": "https://v:8200", "VAULT_CACERT": "/ca.pem", "VAULT_NAMESPACE": "ns"}, func(o *options) bool {
			v := o.config.OpenBao
			return v.DefaultAddress == "https://v:8200" && v.DefaultTLS.CACertFile == "/ca.pem" && v.DefaultNamespace == "ns"
		}},
		{"quantities and lists", []string{"--volume-size-limit", "1Gi", "--vault-allowed-addresses", "https://a:1, https://b:2,"}, nil, func(o *options) bool {
			return o.config.SizeLimit == 1<<30 && len(o.config.Vault.AllowedAddresses) == 2
		}},
		{"memory", []string{"--memory-budget=1Gi", "--volume-memory-limit=0", "--max-volume-size-limit=64Mi"}, nil, func(o *options) bool {
			c := o.config
			return c.MemoryBudget == 1<<30 && c.NamespaceMemory == node.Auto && c.VolumeMemory == 0 && c.MaxSizeLimit == 64<<20 && c.MaxInodeLimit == 0
		}},
		{"memory by default", []string{"--memory-budget=auto"}, nil, func(o *options) bool { return o.config.MemoryBudget == node.Auto && o.config.StateSize == 64<<20 }},
		{"class files", []string{"--class-file-dirs=/a,/b", "--allow-local-addresses"}, map[string]string{"MAYFLY_VAULT_ALLOWED_AUTH_MOUNTS": "k8s"}, func(o *options) bool {
			c := o.config
			return len(c.Vault.ClassFileDirs) == 2 && len(c.OpenBao.ClassFileDirs) == 2 && len(c.Akeyless.ClassFileDirs) == 2 &&
				c.OpenBao.AllowLocalAddresses && c.Akeyless.AllowLocalAddresses && len(c.OpenBao.AllowedAuthMounts) == 1
		}},
		{"no audit trail", nil, nil, func(o *options) bool { return o.config.AuditLog == "" && o.config.AuditLevel == audit.Changes }},
		{"audit trail", []string{"--audit-level=all"}, map[string]string{"MAYFLY_AUDIT_LOG": "-"}, func(o *options) bool {
			return o.config.AuditLog == "-" && o.config.AuditLevel == audit.All
		}},
		{"log", []string{"--log-format=json", "--log-level=warn"}, nil, func(o *options) bool { return o.logFormat == "json" && o.logLevel.String() == "WARN" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := testkit.Value(parse(tc.args, env(tc.env), &bytes.Buffer{}))(t)
			if !tc.check(o) {
				t.Errorf("got %+v", o.config)
			}
		})
	}
}

func TestBadCommandLines(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		env  map[string]string
		text string
	}{
		{"unknown flag", []string{"--nosuch"}, nil, "nosuch"},
		{"argument", []string{"serve"}, nil, `"serve"`},
		{"quantity", []string{"--volume-size-limit=big"}, nil, "volume-size-limit"},
		{"zero", []string{"--volume-inode-limit=0"}, nil, "above zero"},
		{"memory", []string{"--memory-budget=-1"}, nil, "auto, a quantity"},
		{"ceiling", []string{"--max-volume-size-limit=auto"}, nil, "16Mi, or 0"},
		{"audit level", []string{"--audit-level=none"}, nil, "changes, all"},
		{"word", []string{"--log-format=xml"}, nil, "text, json"},
		{"variable", nil, map[string]string{"MAYFLY_ROTATION_POLL_INTERVAL": "soon"}, "MAYFLY_ROTATION_POLL_INTERVAL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(t.Context(), tc.args, env(tc.env), &out, &errs); code != 2 || !strings.Contains(errs.String(), tc.text) || !strings.Contains(errs.String(), "--help") {
				t.Errorf("exit code %d: %s", code, errs.String())
			}
		})
	}
}

// An invalid configuration ends with a line that names the flag, and changes nothing.
func TestBadConfigurations(t *testing.T) {
	dir := t.TempDir()
	base := []string{"--endpoint=unix://" + filepath.Join(dir, "s"), "--class-dir=" + dir, "--health-addr=", "--metrics-addr="}
	for _, tc := range []struct {
		name string
		args []string
		text string
	}{
		{"driver name", []string{"--driver-name=a/b"}, "--driver-name"},
		{"node id", []string{"--nodeid="}, "--nodeid"},
		{"endpoint", []string{"--endpoint=tcp://1.2.3.4:5"}, "--endpoint"},
		{"health address", []string{"--health-addr=nowhere"}, "--health-addr"},
		{"status address", []string{"--status-address=nowhere"}, "--status-address"},
		{"shared status address", []string{"--status-address=:1", "--metrics-addr=:1"}, "--status-address"},
		{"registration path", []string{"--kubelet-registration-path=csi.sock"}, "--kubelet-registration-path"},
		{"state", []string{"--state-size-limit=1"}, "--state-size-limit"},
		{"audit log", []string{"--audit-log=" + filepath.Join(dir, "no", "audit.log")}, "--audit-log"},
		{"class files of kubelet", []string{"--class-file-dirs=/x,/var/lib/kubelet/pods"}, "is inside of kubelet's directory"},
		{"class files of the state", []string{"--class-file-dirs=" + dir}, "--class-file-dirs"},
		{"class files relative", []string{"--class-file-dirs=files"}, "must be an absolute path"},
		{"taint without API server", []string{"--remove-startup-taint=x"}, "--remove-startup-taint"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), append(append([]string{}, base...), tc.args...), noEnv, &out, &errs)
			if code != 1 || !strings.Contains(errs.String(), tc.text) {
				t.Errorf("exit code %d: %s", code, errs.String())
			}
			if _, err := os.Lstat(filepath.Join(dir, "state")); err == nil {
				t.Error("a state directory was made")
			}
		})
	}
}

func TestHelpTeaches(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, noEnv, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	testkit.Has(t, out.String(), "--endpoint", "--rotation-poll-interval", "default 2m0s", "MAYFLY_NODEID, NODE_NAME", "VAULT_ADDR", "Examples:", "SIGTERM")
}

var update = flag.Bool("update", false, "write the table of flags into docs/operating.md")

const (
	tableBegin = "<!-- flags: written by go test ./cmd/mayfly-node -update -->\n"
	tableEnd   = "<!-- end of flags -->\n"
)

// The flags that docs/operating.md lists are those that exist.
func TestDocumentedFlags(t *testing.T) {
	const file = "../../docs/operating.md"
	data := testkit.Value(os.ReadFile(file))(t)
	before, rest, ok := strings.Cut(string(data), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the flags", file)
	}
	want := before + tableBegin + flagTable() + tableEnd + after
	if want == string(data) {
		return
	}
	if !*update {
		t.Fatalf("the flags in %s are not those of the program: run go test ./cmd/mayfly-node -update", file)
	}
	testkit.Must(t, os.WriteFile(file, []byte(want), 0o644))
}

// The command line plugin knows the existing flags, to report unknown ones.
func TestFlagNames(t *testing.T) {
	const file = "../../pkg/cli/doctor/flags.txt"
	var names strings.Builder
	for _, g := range (&options{logFormat: "text"}).declare().groups {
		for _, x := range g.flags {
			names.WriteString(x.Name + "\n")
		}
	}
	if data, err := os.ReadFile(file); err == nil && string(data) == names.String() {
		return
	}
	if !*update {
		t.Fatalf("the names in %s are not those of the program's flags: run go test ./cmd/mayfly-node -update", file)
	}
	testkit.Must(t, os.WriteFile(file, []byte(names.String()), 0o644))
}

func flagTable() string {
	var b strings.Builder
	for _, g := range (&options{logFormat: "text"}).declare().groups {
		fmt.Fprintf(&b, "\n%s:\n\n| Flag | Environment | Default | Meaning |\n|---|---|---|---|\n", g.title)
		for _, x := range g.flags {
			_, usage := flag.UnquoteUsage(x)
			value := "`" + x.DefValue + "`"
			switch {
			case x.Name == "nodeid":
				value = "the host's name"
			case x.DefValue == "":
				value = ""
			}
			env := ""
			if g.env[x.Name] != "" {
				env = "`" + strings.ReplaceAll(g.env[x.Name], " ", "`, `") + "`"
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", x.Name, env, value, strings.ReplaceAll(usage, "\n", " "))
		}
	}
	return b.String() + "\n"
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"--version"}, noEnv, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "mayfly-node dev go") {
		t.Errorf("exit code %d: %s%s", code, out.String(), errs.String())
	}
}

// A driver outlives the reader of its log and its audit trail.
func TestClosedStandardOutput(t *testing.T) {
	testkit.WithClosedStdout(t, func() { _ = serve(context.Background(), &options{}, slog.New(slog.DiscardHandler)) })
}

func kubeconfigOf(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: \"" + url + "\"}}]\ncontexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n"
	testkit.Must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestMounted(t *testing.T) {
	var selector string
	code := http.StatusOK
	var statuses []v1.SecretProviderClassPodStatus
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		selector = r.URL.Query().Get("labelSelector")
		list := v1.SecretProviderClassPodStatusList{Items: statuses}
		list.APIVersion, list.Kind = v1.GroupVersion().String(), "SecretProviderClassPodStatusList"
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(list)
	}))
	defer server.Close()
	kubeconfig := kubeconfigOf(t, server.URL)
	count := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"mounted", "--kubeconfig", kubeconfig}, args...), os.Getenv, &out, &out)
		return code, out.String()
	}
	of := func(namespace string, mounted bool) v1.SecretProviderClassPodStatus {
		s := v1.SecretProviderClassPodStatus{}
		s.Namespace, s.Status.Mounted = namespace, mounted
		return s
	}
	if got, text := count(); got != 0 || !strings.Contains(text, "no volume of driver "+defaultDriver) || selector != "mayfly.dev/driver="+defaultDriver {
		t.Errorf("none: %d, %s, selector %q", got, text, selector)
	}
	statuses = []v1.SecretProviderClassPodStatus{of("shop", true), of("bank", true), of("shop", true), of("shop", false)}
	if got, text := count("--driver-name", "mayfly.dev"); got != 1 || !strings.Contains(text, "3 in all") ||
		!strings.Contains(text, "  namespace bank: 1\n  namespace shop: 2\n") || selector != "mayfly.dev/driver=mayfly.dev" {
		t.Errorf("three: %d, %s, selector %q", got, text, selector)
	}
	code = http.StatusForbidden
	if got, text := count(); got != 2 || !strings.Contains(text, "listing secretproviderclasspodstatuses") {
		t.Errorf("refused: %d, %s", got, text)
	}
	if got, text := count("--nope"); got != 2 || !strings.Contains(text, "mounted --help") {
		t.Errorf("a wrong flag: %d, %s", got, text)
	}
	if got, text := count("all"); got != 2 || !strings.Contains(text, `unexpected argument "all"`) {
		t.Errorf("an argument: %d, %s", got, text)
	}
	if got, text := count("--help"); got != 0 || !strings.Contains(text, "exit code") || !strings.Contains(text, "-driver-name") {
		t.Errorf("help: %d, %s", got, text)
	}
}

// TestOperator: kubectl mayfly reads the flags that are about stores as the
// driver does, from the command line and from the environment.
func TestOperator(t *testing.T) {
	// These flags concern the process, not the limits for classes.
	passed := map[string]bool{
		"vault-request-timeout": true, "vault-disable-revocation": true, "vault-max-retries": true, "akeyless-request-timeout": true,
		"akeyless-disable-revocation": true, "akeyless-share-by-service-account": true,
	}
	values := []string{"https://one.example,https://two.example:8200", "true"}
	seen := 0
	for _, g := range (&options{}).declare().groups {
		for _, f := range g.flags {
			if !strings.HasPrefix(f.Name, "vault-") && !strings.HasPrefix(f.Name, "akeyless-") && f.Name != "allow-local-addresses" && f.Name != "class-file-dirs" || passed[f.Name] {
				continue
			}
			value := values[0]
			if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
				value = values[1]
			}
			seen++
			sameSettings(t, f.Name, []string{"--" + f.Name + "=" + value}, nil)
			if value == values[0] {
				sameSettings(t, f.Name, []string{"-" + f.Name, value}, nil)
			} else {
				sameSettings(t, f.Name, []string{"--" + f.Name}, nil)
			}
			for _, name := range strings.Fields(g.env[f.Name]) {
				sameSettings(t, name, nil, map[string]string{name: value})
				sameSettings(t, name, []string{"--" + f.Name + "=" + strings.TrimSuffix(value, ":8200")}, map[string]string{name: value})
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d flags", seen)
	}
}

func sameSettings(t *testing.T, what string, args []string, env map[string]string) {
	t.Helper()
	// The flags have the same defaults as the providers, except for the names.
	base := testkit.Value(parse(nil, func(string) string { return "" }, io.Discard))(t)
	o, err := parse(args, func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	got := operator.Parse(args, env)
	if reflect.DeepEqual(o.config.Vault, base.config.Vault) && reflect.DeepEqual(o.config.Akeyless, base.config.Akeyless) {
		t.Errorf("%s changes nothing in the driver", what)
	}
	want := o.config
	got.Vault.Name, got.Vault.Settings = want.Vault.Name, want.Vault.Settings
	got.Akeyless.Settings = want.Akeyless.Settings
	if got.Vault.DefaultAuthMount == "" {
		got.Vault.DefaultAuthMount = base.config.Vault.DefaultAuthMount
	}
	if got.Akeyless.DefaultAudience == "" {
		got.Akeyless.DefaultAudience = base.config.Akeyless.DefaultAudience
	}
	again := operator.Parse(args, env)
	if again.Vault.AllowLocalAddresses != want.Vault.AllowLocalAddresses || !reflect.DeepEqual(again.Akeyless.ClassFileDirs, want.Akeyless.ClassFileDirs) {
		t.Errorf("%s: local addresses %v, class files %q", what, again.Vault.AllowLocalAddresses, again.Akeyless.ClassFileDirs)
	}
	if !reflect.DeepEqual(got.Vault, want.Vault) || !reflect.DeepEqual(got.Akeyless, want.Akeyless) {
		t.Errorf("%s: read as\n%+v\nwant\n%+v", what, got, want.Vault)
	}
}

// trailOf returns the lines of a node's chain.
func trailOf(node string, n int) []string {
	h := chain.Begin(nil)
	var lines []string
	for range n {
		var text []byte
		text, h = h.Add(nil, fmt.Appendf(nil, `{"apiVersion":%q,"time":"2026-03-01T09:30:00.125Z","event":"publish","node":%q}`+"\n", chain.Version, node))
		lines = append(lines, string(text))
	}
	return lines
}

func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	a := trailOf("n1", 4)
	file := func(name string, lines ...string) string {
		path := filepath.Join(dir, name)
		testkit.Must(t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600))
		return path
	}
	first, second := file("1", a[:2]...), file("2", a[2:]...)
	short, other := file("short", a[0], a[2], a[3]), file("other", trailOf("n2", 2)...)
	lost := file("lost", strings.Replace(trailOf("n1", 1)[0], `"event"`, `"lost":7,"event"`, 1))
	for _, tc := range []struct {
		name   string
		args   string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{"two files", "verify " + first + " " + second, "", 0, "lines 1 to 4, 2026-03-01T09:30:00Z to 2026-03-01T09:30:00Z, which follow no line", ""},
		{"the later one alone", "verify " + second, "", 0, "lines 3 to 4, 2026-03-01T09:30:00Z to 2026-03-01T09:30:00Z, which follow a line that is in none of the files", ""},
		{"in the wrong order", "verify " + second + " " + first, "", 1, first + ":1: line 1 of the chain comes after line 4", ""},
		{"a gap", "verify " + short, "", 1, short + ":2: 1 line is missing between line 1 of the chain (" + short + ":1) and line 3", ""},
		{"standard input", "verify -", strings.Join(a, ""), 0, "node n1, chain ", ""},
		{"as far as it must", "verify --reaches 4 " + first + " " + second, "", 0, "lines 1 to 4", ""},
		{"not as far", "verify --reaches 6 " + first, "", 1, "the last line is line 2 of its chain, and line 6 was written: 4 lines are missing at the end", ""},
		{"of two nodes", "verify --reaches 4 " + first + " " + other, "", 2, "node n2", "--reaches is about one node"},
		{"lost lines", "verify " + lost, "", 0, "the driver says that it lost 7 lines", ""},
		{"other programs' lines", "verify -", "level=INFO\n" + a[0] + ` {"event":"publish"}` + "\n", 0, "2 lines are of no audit trail, and were left out", ""},
		{"no trail", "verify -", "level=INFO\n", 2, "", "no line with a place in a chain"},
		{"no such file", "verify " + dir + "/no", "", 2, "", "opening the audit trail: open " + dir + "/no"},
		{"no file", "verify", "", 2, "", "no file is given"},
		{"no subcommand", "", "", 2, "", "the subcommand is missing"},
		{"another subcommand", "check x", "", 2, "", "the subcommand is missing"},
		{"an unknown flag", "verify --x y", "", 2, "", "-x"},
		{"help", "verify --help", "", 0, "--reaches", ""},
		{"help of all", "--help", "", 0, "mayfly-node audit verify FILE...", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := auditTool(strings.Fields(tc.args), strings.NewReader(tc.stdin), &stdout, &stderr)
			if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) || tc.stderr == "" && stderr.Len() > 0 {
				t.Errorf("code %d\n%s\n%s", code, &stdout, &stderr)
			}
		})
	}
}
