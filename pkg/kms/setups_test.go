package kms_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Wrong set-ups have an error in the log that says what to do, and work once they are corrected.
func TestWrongSetUps(t *testing.T) {
	for name, tc := range map[string]struct {
		wrong, right func(r *kmsrig.Rig)
		words        []string
	}{
		"key of RSA": {
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, map[string]any{"type": "rsa-2048"}) },
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, nil) },
			[]string{"rsa-2048", "aes256-gcm96", "--transit-key"},
		},
		"derived key": {
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, map[string]any{"derived": true}) },
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, nil) },
			[]string{"derived=false"},
		},
		"no key": {
			func(r *kmsrig.Rig) { r.DeleteKey() },
			func(r *kmsrig.Rig) { r.Write("transit/keys/"+r.Key, nil) },
			[]string{"there is no key", "--transit-key", "--transit-mount"},
		},
		"no policy": {
			func(r *kmsrig.Rig) { r.SetPolicy(`path "sys/nothing" { capabilities = ["read"] }`) },
			func(r *kmsrig.Rig) { r.SetPolicy(kmsrig.LeastPolicy(r.Key)) },
			[]string{`must grant \"read\" on transit/keys/`},
		},
		"no right to encrypt": {
			func(r *kmsrig.Rig) {
				r.SetPolicy(fmt.Sprintf(`path "transit/keys/%s" { capabilities = ["read"] }`, r.Key))
			},
			func(r *kmsrig.Rig) { r.SetPolicy(kmsrig.LeastPolicy(r.Key)) },
			[]string{`must grant \"update\" on transit/encrypt/`},
		},
		"no right to decrypt": {
			func(r *kmsrig.Rig) {
				r.SetPolicy(strings.ReplaceAll(kmsrig.LeastPolicy(r.Key), "transit/decrypt", "transit/rewrap"))
			},
			func(r *kmsrig.Rig) { r.SetPolicy(kmsrig.LeastPolicy(r.Key)) },
			[]string{`must grant \"update\" on transit/decrypt/`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := kmsrig.New(t, vault)
			tc.wrong(r)
			p := r.Start()
			for _, words := range tc.words {
				p.Eventually("the log says "+words, func() bool { return strings.Contains(p.Log.String(), words) })
			}
			if _, err := p.Status(); status.Code(err) != codes.Unavailable {
				t.Errorf("Status answers %v", err)
			}
			tc.right(r)
			mustDecrypt(t, waitReady(p), encrypt(t, p, "1"))
		})
	}
}

func TestAbsentMount(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	r.SetPolicy(`path "nowhere/*" { capabilities = ["read", "update"] }`)
	p := r.Start("--transit-mount=nowhere")
	p.Eventually("the log names the setting", func() bool { return strings.Contains(p.Log.String(), "--transit-mount") })
}

// With a policy with create, Vault would silently create a deleted key again.
func TestPolicyWithCreate(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	good := r.Start()
	good.Ready()
	if good.Condition().MayCreate {
		t.Error("the least policy is taken for one with create")
	}
	r.SetPolicy(strings.Replace(kmsrig.LeastPolicy(r.Key), `["update"]`, `["create", "update"]`, 1))
	p := r.Start()
	p.Ready()
	p.Eventually("the log says what to grant", func() bool {
		return strings.Contains(p.Log.String(), "grant only update") && p.Condition().MayCreate
	})
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request := testkit.Value(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))(t)
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = r.Body.Close() }()
	body := testkit.Value(io.ReadAll(r.Body))(t)
	return r.StatusCode, string(body)
}

// Health is live while Vault is unavailable, and ready is not. The metrics say the same, and have
// the id that is also in the API server's.
func TestHealthAndMetrics(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	addr := testkit.FreeAddress(t)
	p := r.Start("--health-addr="+addr, "--metrics-addr="+addr, "--call-timeout=300ms")
	id := p.Ready()
	mustDecrypt(t, p, encrypt(t, p, "1"))
	want := func(metrics ...string) {
		t.Helper()
		_, text := get(t, "http://"+addr+"/metrics")
		for _, m := range metrics {
			testkit.Has(t, text, "\n"+m)
		}
	}
	if code, text := get(t, "http://"+addr+"/readyz"); code != 200 || !strings.Contains(text, "[+] key ok") {
		t.Errorf("ready: %d %s", code, text)
	}
	want(`mayfly_kms_healthy 1`, `mayfly_kms_key_info{key_id="`+id+`",key_id_hash="`+key.HashOf(id)+`"} 1`, `mayfly_kms_local_key 1`,
		`mayfly_kms_calls_total{answered_by="local-key",code="OK",method="Encrypt"} 1`, `mayfly_kms_logins_total{result="ok"} 1`,
		`mayfly_kms_vault_requests_total{operation="encrypt",result="ok"} 1`, `mayfly_kms_key_problem{problem="replaced"} 0`,
		`mayfly_kms_policy_grants_create 0`, `process_resident_memory_bytes`)
	r.Gate.Shut()
	p.Eventually("it is not ready", func() bool { code, _ := get(t, "http://"+addr+"/readyz"); return code == 503 })
	if code, text := get(t, "http://"+addr+"/healthz"); code != 200 {
		t.Errorf("live: %d %s", code, text)
	}
	want(`mayfly_kms_healthy 0`, `mayfly_kms_vault_requests_total{operation="read-key",result="Unavailable"}`)
}

// An address in use does not stop the plugin.
func TestTakenHealthAddress(t *testing.T) {
	t.Parallel()
	l := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer func() { _ = l.Close() }()
	p := kmsrig.New(t, vault).Start("--health-addr=" + l.Addr().String())
	p.Ready()
	p.Eventually("the log says so", func() bool { return strings.Contains(p.Log.String(), "--health-addr") })
}

// systemd is notified once the socket exists, not before.
func TestNotify(t *testing.T) {
	r := kmsrig.New(t, vault)
	path := t.TempDir() + "/notify"
	l := testkit.Value(net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path}))(t)
	defer func() { _ = l.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	r.Gate.Shut() // Vault is not waited for
	p := r.Start()
	buffer := make([]byte, 64)
	n, err := l.Read(buffer)
	if err != nil || string(buffer[:n]) != "READY=1" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
	if _, err := net.Dial("unix", p.Config.Serve.Socket); err != nil {
		t.Error(err)
	}
}

// hostile are values that were changed, out of one with a local key and one
// without.
func hostile(a, b value) map[string]*kmsv2.DecryptRequest {
	with := func(base value, change func(*kmsv2.DecryptRequest)) *kmsv2.DecryptRequest {
		q := &kmsv2.DecryptRequest{Ciphertext: bytes.Clone(base.sealed.GetCiphertext()), KeyId: base.sealed.GetKeyId(), Annotations: maps.Clone(base.sealed.GetAnnotations()), Uid: "3"}
		change(q)
		return q
	}
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }
	otherID := strings.Map(func(c rune) rune {
		if c == '0' {
			return '1'
		}
		return c
	}, a.sealed.GetKeyId())
	if otherID == a.sealed.GetKeyId() {
		id := a.sealed.GetKeyId()
		otherID = id[:len(id)-1] + map[bool]string{true: "e", false: "f"}[strings.HasSuffix(id, "f")]
	}
	return map[string]*kmsv2.DecryptRequest{
		"no ciphertext":         with(a, func(q *kmsv2.DecryptRequest) { q.Ciphertext = nil }),
		"long ciphertext":       with(a, func(q *kmsv2.DecryptRequest) { q.Ciphertext = make([]byte, 1025) }),
		"no key id":             with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = "" }),
		"foreign key id":        with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = "1" }),
		"long key id":           with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = strings.Repeat("x", 1025) }),
		"altered key id":        with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = otherID }),
		"altered key id, plain": with(b, func(q *kmsv2.DecryptRequest) { q.KeyId = otherID }),
		"flipped":               with(a, func(q *kmsv2.DecryptRequest) { q.Ciphertext = flip(q.Ciphertext) }),
		"no annotation":         with(a, func(q *kmsv2.DecryptRequest) { q.Annotations = nil }),
		"empty annotation":      with(a, func(q *kmsv2.DecryptRequest) { q.Annotations[key.AnnotationLocalKey] = nil }),
		"other annotation":      with(a, func(q *kmsv2.DecryptRequest) { q.Annotations["a.b"] = []byte("x") }),
		"seed as local key":     with(a, func(q *kmsv2.DecryptRequest) { q.Annotations[key.AnnotationLocalKey] = b.sealed.GetCiphertext() }),
		"local key as seed":     with(b, func(q *kmsv2.DecryptRequest) { q.Ciphertext = a.sealed.GetAnnotations()[key.AnnotationLocalKey] }),
		"JSON in it":            with(b, func(q *kmsv2.DecryptRequest) { q.Ciphertext = []byte(`vault:v1:AAAA","plaintext":"AAAA`) }),
		"other version": with(b, func(q *kmsv2.DecryptRequest) {
			q.Ciphertext = bytes.Replace(q.Ciphertext, []byte("vault:v1:"), []byte("vault:v2:"), 1)
		}),
		"huge annotation": with(a, func(q *kmsv2.DecryptRequest) {
			q.Annotations[key.AnnotationLocalKey] = bytes.Repeat([]byte("x"), 32<<10)
		}),
	}
}

// TestHostile: changed or invented values from etcd decrypt to nothing, and are refused with an
// error about the value.
func TestHostile(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	local, plain := r.Start(), r.Start("--local-key=false")
	local.Ready()
	plain.Ready()
	a, b := encrypt(t, local, "1"), encrypt(t, plain, "2")
	for name, q := range hostile(a, b) {
		for _, p := range []*kmsrig.Plugin{local, plain} {
			_, err := p.Client.Decrypt(t.Context(), q)
			testkit.Equal(t, name+": the code", status.Code(err), codes.InvalidArgument)
			for _, private := range []string{"127.0.0.1", r.Key, "auth/"} {
				if strings.Contains(fmt.Sprint(err), private) {
					t.Errorf("%s: the error shows %q: %v", name, private, err)
				}
			}
		}
	}
	for size, want := range map[int]codes.Code{0: codes.InvalidArgument, 1: codes.OK, 512: codes.OK, 513: codes.InvalidArgument} {
		_, err := plain.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: make([]byte, size), Uid: "\r\nX-Vault-Token: x"})
		testkit.Equal(t, fmt.Sprintf("the code for a plaintext of %d bytes", size), status.Code(err), want)
	}
	huge := &kmsv2.DecryptRequest{Ciphertext: a.sealed.GetCiphertext(), KeyId: a.sealed.GetKeyId(), Uid: strings.Repeat("x", 1<<20)}
	if _, err := local.Client.Decrypt(t.Context(), huge); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of 1 MiB: %v", err)
	}
	mustDecrypt(t, local, a)
	mustDecrypt(t, plain, b)
}
