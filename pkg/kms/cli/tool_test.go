package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	if strings.Contains(out, marker) {
		t.Errorf("the text of a Secret is in %s", out)
	}
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
