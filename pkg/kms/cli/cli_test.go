package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
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

// A plugin outlives the reader of its log and its audit trail.
func TestClosedStandardOutput(t *testing.T) {
	testkit.WithClosedStdout(t, func() {
		_ = serve(context.Background(), config.Config{}, Streams{}, slog.New(slog.DiscardHandler))
	})
}

const marker = "the-text-of-a-secret"

// snapshot is a database of etcd's with a Secret for each value.
func snapshot(t *testing.T, values ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd.db")
	db, err := bbolt.Open(path, 0o600, nil)
	testkit.Must(t, err)
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("key"))
		for i, value := range values {
			revision := binary.BigEndian.AppendUint64(append(binary.BigEndian.AppendUint64(nil, uint64(i+1)), '_'), 0)
			kv := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "/registry/secrets/shop/web-"+string(rune('0'+i)))
			kv = protowire.AppendString(protowire.AppendTag(kv, 5, protowire.BytesType), value)
			if err == nil {
				err = bucket.Put(revision, kv)
			}
		}
		return err
	})
	testkit.Must(t, err)
	return path
}

func sealed(name, id, ciphertext string) string {
	b := []byte("k8s:enc:kms:v2:" + name + ":")
	for i, field := range []string{"sealed", id, ciphertext} {
		b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType), field)
	}
	return string(b)
}

const (
	idOld = "mayfly-1-v1-00000000000000000000000000000000"
	idNew = "mayfly-1-v2-00000000000000000000000000000000"
)

func TestScan(t *testing.T) {
	path := snapshot(t, sealed("mayfly", idNew, "vault:v2:YWFh"), sealed("mayfly", idNew, "vault:v2:YWFh"), sealed("mayfly", idOld, "vault:v1:YWFh"),
		"k8s\x00"+marker, "k8s:enc:aescbc:v1:key1:"+marker)
	code, out, errs := runTool(t, "scan", "--snapshot="+path, "--key-id="+idNew)
	want := `✓ current key id: mayfly-1-v2-00000000000000000000000000000000 (--key-id)
‼ snapshot FILE: it has no checksum, as a copy of a database has none; what etcd had not written there yet is missing in it
  → scan what etcdctl snapshot save writes
✗ secrets in snapshot FILE: 1 of 5 values is plain text
  → run mayfly-kms migrate; if new values are plain too, run mayfly-kms doctor
✗ secrets in snapshot FILE: 1 of 5 values is under another provider
  → run mayfly-kms migrate, and keep that provider in the EncryptionConfiguration until this is 0
✗ secrets in snapshot FILE: 1 of 5 values is under another key id of mayfly
  → run mayfly-kms migrate before min_decryption_version rises

snapshot FILE, revision 5
  secrets: 5 values
    ✓       2  kms/v2 mayfly, key id mayfly-1-v2-00000000000000000000000000000000 (version 2 of the key)
    ✗       1  aescbc key1
    ✗       1  plain text
    ✗       1  kms/v2 mayfly, key id mayfly-1-v1-00000000000000000000000000000000 (version 1 of the key)
    ✗ names: shop/web-2, shop/web-3, shop/web-4
`
	if got := strings.ReplaceAll(out, path, "FILE"); code != 1 || errs != "" || got != want {
		t.Errorf("%d: %s\ngot\n%s\nwant\n%s", code, errs, got, want)
	}
	code, out, _ = runTool(t, "scan", "--snapshot="+path, "--key-id="+idNew, "-o", "json", "--names=1")
	var r report.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 1 || r.Version != 1 {
		t.Fatalf("%d: %v\n%s", code, err, out)
	}
	if f := r.Scans[0].Resources[0]; f.Values != 5 || f.StragglerCount != 3 || len(f.Stragglers) != 1 || len(f.Under) != 4 {
		t.Errorf("%+v", f)
	}
	testkit.Lacks(t, out, marker)
	if code, out, _ := runTool(t, "scan", "--snapshot="+snapshot(t, sealed("mayfly", idNew, "vault:v2:YWFh")), "--key-id="+idNew); code != 0 || !strings.Contains(out, "1 value, all under mayfly") {
		t.Errorf("%d: %s", code, out)
	}
	if code, _, _ := runTool(t, "scan", "--snapshot="+snapshot(t), "--key-id="+idNew, "--fail-on=warning"); code != 1 {
		t.Errorf("%d for an empty database", code)
	}
}

// runTool runs a tool whose context does not end.
func runTool(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = Run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Getenv: func(string) string { return "" }, Version: "test"})
	return code, stdout.String(), stderr.String()
}

// TestToolsRefuse: a command that cannot run exits with 2, and says why.
func TestToolsRefuse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n"
	testkit.Must(t, os.WriteFile(file, []byte(text), 0o600))
	for args, want := range map[string]string{
		"scan":                                             "--etcd-endpoints",
		"scan --snapshot=/absent":                          "opening the snapshot: open /absent",
		"scan --snapshot=a -o yaml":                        "--output: must be text or json",
		"scan --snapshot=a --fail-on=info":                 "--fail-on: must be error or warning",
		"scan --snapshot=a --resources=*":                  "write *.* for all resources",
		"scan --snapshot=a --encryption-config=/absent":    "opening the EncryptionConfiguration",
		"scan --snapshot=a --encryption-config=" + file:    "it has no KMS provider (--provider-name names one)",
		"scan --snapshot=a --socket=unix:///absent/k.sock": "there is no such socket",
		"scan --etcd-endpoints=127.0.0.1:2379 --key-id=a":  "is no URL; write https://127.0.0.1:2379",
		"scan --names":                                     "flag needs an argument",
		"doctor":                                           "--vault-addr",
		"migrate":                                          "--key-id goes without Vault",
		"migrate --method=magic":                           "--method: must be auto",
		"migrate --key-id=a --patches-per-second=0":        "--patches-per-second",
		"migrate --key-id=a --wait=0s":                     "--wait",
		"migrate --key-id=a --kubeconfig=/absent":          "reading the kubeconfig: open /absent",
		"retire":                            "--etcd-endpoints",
		"retire --etcd-endpoints=https://a": "--vault-addr",
		"retire --etcd-endpoints=https://a --to=-1":                        "--to",
		"retire --etcd-endpoints=https://a --without-backups --snapshot=a": "--without-backups",
	} {
		if code, out, errs := runTool(t, strings.Fields(args)...); code != 2 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: %d, %q, %q; want %q", args, code, out, errs, want)
		}
	}
}
