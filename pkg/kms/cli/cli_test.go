package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func run(t *testing.T, env map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // serve ends as soon as it has begun
	code = Run(ctx, args, Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Getenv: func(name string) string { return env[name] }, Version: "test"})
	return code, stdout.String(), stderr.String()
}

func TestVersion(t *testing.T) {
	if code, out, errs := run(t, nil, "--version"); code != 0 || !strings.HasPrefix(out, "mayfly-kms test go") || errs != "" {
		t.Errorf("%d: %s%s", code, out, errs)
	}
}

// Every command's help has a description, an example that parses, and every flag.
func TestHelpTeaches(t *testing.T) {
	for _, c := range newRoot(Streams{}).Commands() {
		if c.Hidden {
			continue
		}
		code, out, errs := run(t, nil, c.Name(), "--help")
		if code != 0 || errs != "" || c.Example == "" || len(c.Long) <= len(c.Short) || !strings.Contains(out, "Examples:") {
			t.Errorf("%s: %d: %s%s", c.Name(), code, out, errs)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(out, "--"+f.Name) { // hidden ones are those of serve
				t.Errorf("%s: the help lacks --%s", c.Name(), f.Name)
			}
		})
	}
}

func TestExamplesParse(t *testing.T) {
	text := strings.ReplaceAll(newServe(Streams{}).Example, "\\\n", " ")
	count := 0
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "mayfly-kms" {
			continue
		}
		count++
		c := newServe(Streams{})
		if err := c.ParseFlags(fields[2:]); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if count < 3 {
		t.Errorf("%d examples", count)
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	good := []string{
		"serve", "--listen=unix://" + filepath.Join(dir, "s", "kms.sock"), "--vault-addr=http://127.0.0.1:1", "--auth-method=token-file", "--token-file=/nowhere",
		"--transit-key=k", "--cluster-id=c", "--health-addr=", "--metrics-addr=", "--audit-log=",
	}
	if code, _, errs := run(t, nil, good...); code != 0 {
		t.Errorf("%d: %s", code, errs)
	}
	testkit.Must(t, os.MkdirAll(filepath.Join(dir, "s", "kms.sock"), 0o700))
	for _, tc := range []struct {
		name  string
		code  int
		words string
		args  []string
		env   map[string]string
	}{
		{"no settings", 2, "--vault-addr", []string{"serve"}, nil},
		{"unknown flag", 2, "--nosuch", []string{"serve", "--nosuch"}, nil},
		{"unknown command", 2, "sreve", []string{"sreve"}, nil},
		{"argument", 2, "extra", append([]string{"serve", "extra"}, good[1:]...), nil},
		{"environment", 2, "MAYFLY_KMS_LOCAL_KEY", good, map[string]string{"MAYFLY_KMS_LOCAL_KEY": "perhaps"}},
		{"audit log", 2, "--audit-log", append(good, "--audit-log="+filepath.Join(dir, "no", "audit.log")), nil},
		{"something in the way", 1, "--listen", good, nil},
	} {
		if code, _, errs := run(t, tc.env, tc.args...); code != tc.code || !strings.Contains(errs, tc.words) {
			t.Errorf("%s: %d: %s", tc.name, code, errs)
		}
	}
}
