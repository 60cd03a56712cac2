package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit"
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
			o, err := parse(tc.args, env(tc.env), &bytes.Buffer{})
			testkit.Must(t, err)
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
	data, err := os.ReadFile(file)
	testkit.Must(t, err)
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
