package kms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// vault is shared by the tests; each has a key of its own.
var vault *vaulttest.Server

func TestMain(m *testing.M) { os.Exit(kmsrig.Main(m, &vault)) }

func seed() []byte {
	s := make([]byte, 32)
	_, _ = rand.Read(s)
	return s
}

type value struct {
	seed   []byte
	sealed *kmsv2.EncryptResponse
}

func encrypt(t testing.TB, p *kmsrig.Plugin, uid string) value {
	t.Helper()
	s := seed()
	sealed := testkit.Value(p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: bytes.Clone(s), Uid: uid}))(t)
	return value{s, sealed}
}

func decrypt(t testing.TB, p *kmsrig.Plugin, v value, uid string) error {
	t.Helper()
	out, err := p.Client.Decrypt(t.Context(), &kmsv2.DecryptRequest{Ciphertext: v.sealed.GetCiphertext(), KeyId: v.sealed.GetKeyId(), Annotations: v.sealed.GetAnnotations(), Uid: uid})
	if err == nil && !bytes.Equal(out.GetPlaintext(), v.seed) {
		t.Errorf("decrypted another seed")
	}
	return err
}

func mustDecrypt(t testing.TB, p *kmsrig.Plugin, v value) {
	t.Helper()
	testkit.Must(t, decrypt(t, p, v, "some-uid"))
}

func wantCode(t testing.TB, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("got %v, want %s with %q", err, code, words)
	}
}

// wantProblem waits until Status has the words about the key, with the former key id. The plugin then
// refuses to encrypt.
func wantProblem(t *testing.T, p *kmsrig.Plugin, id, healthz, refusal string) {
	t.Helper()
	p.Eventually("Status says "+healthz, func() bool {
		s, err := p.Status()
		return err == nil && strings.Contains(s.GetHealthz(), healthz) && s.GetKeyId() == id
	})
	_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"})
	wantCode(t, err, codes.FailedPrecondition, refusal)
}

// modes runs a test with the local key and without it.
func modes(t *testing.T, test func(t *testing.T, flag string)) {
	for _, flag := range []string{"--local-key=true", "--local-key=false"} {
		t.Run(strings.TrimPrefix(flag, "--"), func(t *testing.T) { t.Parallel(); test(t, flag) })
	}
}

func TestRoundTrip(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag)
		id := p.Ready()
		v := encrypt(t, p, "uid-1")
		if v.sealed.GetKeyId() != id || len(id) > 64 {
			t.Errorf("key id %q of the answer, %q of the status", v.sealed.GetKeyId(), id)
		}
		if version, ok := key.VersionOf(id); !ok || version != 1 {
			t.Errorf("key id %q is of version %d", id, version)
		}
		mustDecrypt(t, p, v)
		other := r.Start(flag) // as on another node
		testkit.Equal(t, "the key id of another node", other.Ready(), id)
		mustDecrypt(t, other, v)
		mustDecrypt(t, p, encrypt(t, other, "uid-2"))
	})
}

// Each mode can decrypt the other's values: the setting may change at any time.
func TestModesOpenEachOther(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	a, b := r.Start("--local-key=true"), r.Start("--local-key=false")
	testkit.Equal(t, "the key ids differ", a.Ready(), b.Ready())
	mustDecrypt(t, b, encrypt(t, a, "a"))
	mustDecrypt(t, a, encrypt(t, b, "b"))
}

func TestRotation(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag)
		first := p.Ready()
		old := encrypt(t, p, "1")
		r.Rotate()
		p.Eventually("the new version is announced", func() bool { return p.Ready() != first })
		fresh := encrypt(t, p, "2")
		if version, _ := key.VersionOf(fresh.sealed.GetKeyId()); version != 2 {
			t.Errorf("key id %s after a rotation", fresh.sealed.GetKeyId())
		}
		mustDecrypt(t, p, old)
		mustDecrypt(t, p, fresh)
		// A node that rotated later, or was replaced, needs no state.
		mustDecrypt(t, r.Start(flag), fresh)
		mustDecrypt(t, r.Start(flag), old)
		r.Write("transit/keys/"+r.Key+"/config", map[string]any{"min_encryption_version": 2})
		mustDecrypt(t, p, encrypt(t, p, "3"))
	})
}

// A node that has not seen the rotation yet decrypts what another node encrypted with the new
// version.
func TestDecryptAheadOfStatus(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	late := r.Start("--poll-interval=10m")
	id := late.Ready()
	r.Rotate()
	early := r.Start()
	if early.Ready() == id {
		t.Fatal("no rotation")
	}
	mustDecrypt(t, late, encrypt(t, early, "1"))
	testkit.Equal(t, "a Decrypt changed the status", late.Ready(), id)
}

func TestMinDecryptionVersion(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag)
		first := p.Ready()
		old := encrypt(t, p, "1")
		r.Rotate()
		p.Eventually("the new version is announced", func() bool { return p.Ready() != first })
		mustDecrypt(t, p, old)
		r.Write("transit/keys/"+r.Key+"/config", map[string]any{"min_decryption_version": 2})
		// Memory must not hide that something still needs the old version.
		p.Eventually("the old seed is dropped from memory", func() bool { return decrypt(t, p, old, "2") != nil })
		wantCode(t, decrypt(t, p, old, "3"), codes.InvalidArgument, "min_decryption_version")
		if p.Ready() == first {
			t.Error("the key id went back")
		}
	})
}

func TestKeyReplaced(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag)
		id := p.Ready()
		v := encrypt(t, p, "1")
		r.DeleteKey()
		time.Sleep(1100 * time.Millisecond) // Transit keeps creation times in seconds
		r.Write("transit/keys/"+r.Key, nil)
		wantProblem(t, p, id, "deleted and made again", "made again")
		mustDecrypt(t, p, v) // from memory, so that the operator has time
		p.Eventually("the log says so loudly", func() bool {
			return strings.Contains(p.Log.String(), `"level":"ERROR","msg":"THE KEY IN VAULT IS NOT THE ONE`) && strings.Contains(p.Log.String(), "Restore the old key from a backup")
		})
		fresh := r.Start(flag)
		if fresh.Ready() == id {
			t.Error("the key that was made again has the old one's key id")
		}
		wantCode(t, decrypt(t, fresh, v, "3"), codes.InvalidArgument, "another key of the same name")
	})
}

// A key that is restored from its own backup is the old one: earlier values can be decrypted again.
func TestKeyRestored(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		r.Write("transit/keys/"+r.Key+"/config", map[string]any{"exportable": true, "allow_plaintext_backup": true})
		p := r.Start(flag)
		id := p.Ready()
		v := encrypt(t, p, "1")
		backup := r.Read("transit/backup/" + r.Key)["backup"]
		r.DeleteKey()
		wantProblem(t, p, id, "was deleted", "was deleted")
		r.Write("transit/restore/"+r.Key, map[string]any{"backup": backup})
		if p.Ready() == id {
			t.Error("a restored key has the same key id, so nothing would show the restore")
		}
		mustDecrypt(t, p, v)
		mustDecrypt(t, r.Start(flag), v)
	})
}

func TestVersionWentBack(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		r.Write("transit/keys/"+r.Key+"/config", map[string]any{"exportable": true, "allow_plaintext_backup": true})
		backup := r.Read("transit/backup/" + r.Key)["backup"]
		r.Rotate()
		p := r.Start(flag)
		id := p.Ready()
		r.Write("transit/restore/"+r.Key, map[string]any{"backup": backup, "force": true}) // as of an old snapshot
		wantProblem(t, p, id, "put back to an earlier state", "earlier state")
		if c := p.Condition(); c.Problem == nil || c.Problem.Kind != key.WentBack {
			t.Errorf("condition %+v", c)
		}
	})
}

// Many first reads of one seed ask Vault once.
func TestSingleFlight(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		v := encrypt(t, waitReady(r.Start(flag)), "1")
		p := r.Start(flag)
		p.Ready()
		mark := r.Mark()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				testkit.Check(t, decrypt(t, p, v, fmt.Sprintf("uid-%d", i)))
			})
		}
		wg.Wait()
		testkit.Equal(t, "Decrypts", r.Requests(mark)["decrypt"], 1)
	})
}

func waitReady(p *kmsrig.Plugin) *kmsrig.Plugin { p.Ready(); return p }

// The audit trail and Vault's own have the API server's uid.
func TestAuditTrail(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		start := r.Mark()
		v := encrypt(t, waitReady(r.Start(flag)), "uid-enc")
		wantCorrelation(t, r, start, "encrypt", map[string]string{"--local-key=true": "mayfly-kms-", "--local-key=false": "uid-enc"}[flag])
		p := r.Start(flag)
		p.Ready()
		mark := r.Mark()
		testkit.Must(t, decrypt(t, p, v, "uid-dec-1"))
		testkit.Must(t, decrypt(t, p, v, "uid-dec-2"))
		v.sealed.KeyId = strings.Replace(v.sealed.GetKeyId(), "-v1-", "-v2-", 1)
		wantCode(t, decrypt(t, p, v, "uid-dec-3"), codes.InvalidArgument, "different versions")
		p.Stop()
		text := testkit.Value(os.ReadFile(p.Config.Serve.AuditLog))(t)
		type line struct {
			Event, Outcome, UID, KeyID, AnsweredBy string
			Peer                                   struct{ PID, UID int }
			CorrelationIDs                         []string
		}
		byMemory := map[string]string{"--local-key=true": "local-key", "--local-key=false": "memory"}[flag]
		var got []line
		for one := range bytes.Lines(text) {
			var l line
			testkit.Must(t, json.Unmarshal(one, &l))
			if l.Peer.PID != os.Getpid() || l.Peer.UID != os.Getuid() {
				t.Errorf("peer %+v", l.Peer)
			}
			got = append(got, l)
		}
		want := []line{
			{Event: "decrypt", Outcome: "success", UID: "uid-dec-1", AnsweredBy: "vault", CorrelationIDs: []string{"uid-dec-1"}},
			{Event: "decrypt", Outcome: "success", UID: "uid-dec-2", AnsweredBy: byMemory, CorrelationIDs: []string{"uid-dec-1"}},
			{Event: "decrypt", Outcome: "failure", UID: "uid-dec-3"},
		}
		for i := range got {
			got[i].Peer.PID, got[i].Peer.UID, got[i].KeyID = 0, 0, ""
		}
		testkit.Equal(t, "audit lines", fmt.Sprint(got), fmt.Sprint(want))
		wantCorrelation(t, r, mark, "decrypt", "uid-dec-1")
	})
}

// wantCorrelation looks for a request in Vault's audit log.
func wantCorrelation(t *testing.T, r *kmsrig.Rig, since vaulttest.Mark, operation, prefix string) {
	t.Helper()
	entries := testkit.Value(vault.AuditEntriesSince(t.Context(), since))(t)
	found := slices.ContainsFunc(entries, func(e vaulttest.AuditEntry) bool {
		ids := e.Headers["x-correlation-id"]
		return e.Path == "transit/"+operation+"/"+r.Key && len(ids) == 1 && strings.HasPrefix(ids[0], prefix)
	})
	if !found {
		t.Errorf("Vault's audit log has no %s with %s", operation, prefix)
	}
}

// Another cluster with the same Transit key cannot decrypt this one's values.
func TestOtherCluster(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p, other := r.Start(flag), r.Start(flag, "--cluster-id=cluster-b")
		if p.Ready() == other.Ready() {
			t.Error("two clusters have one key id")
		}
		wantCode(t, decrypt(t, other, encrypt(t, p, "1"), "2"), codes.InvalidArgument, "another cluster")
	})
}

func TestEpoch(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p, other := r.Start(), r.Start("--key-epoch=2")
	if p.Ready() == other.Ready() {
		t.Error("another epoch has the same key id")
	}
	mustDecrypt(t, other, encrypt(t, p, "1"))
}

// Several addresses: a dead one and a shut one cost less than the API server's
// time, and the one that answers is asked first after that.
func TestFailover(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	dead, shut := kmsrig.NewGate(t, vault.Address), kmsrig.NewGate(t, vault.Address)
	dead.Dead()
	shut.Shut()
	p := r.Start("--vault-addr="+strings.Join([]string{dead.URL("http"), shut.URL("http"), r.Gate.URL("http")}, ","), "--local-key=false")
	p.Ready()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := p.Client.Encrypt(ctx, &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "1"}); err != nil {
		t.Error(err)
	}
	r.Gate.Dead()
	dead.Open()
	if _, err := p.Client.Encrypt(ctx, &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"}); err != nil {
		t.Errorf("after the server in use went away: %v", err)
	}
}

// No secret reaches the log, the audit trail, an error or the metrics.
func TestNothingSecretIsSaid(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.Start("--local-key=false", "--log-level=debug")
	p.Ready()
	v := encrypt(t, p, "1")
	mustDecrypt(t, p, v)
	r.SetPolicy(`path "sys/nothing" { capabilities = ["read"] }`)
	p.Eventually("the denial shows", func() bool { return strings.Contains(p.Log.String(), "permission denied") })
	secretID := testkit.Value(os.ReadFile(r.SecretIDFile))(t)
	p.Stop()
	trail := testkit.Value(os.ReadFile(p.Config.Serve.AuditLog))(t)
	said := p.Log.String() + string(trail)
	for name, secret := range map[string]string{"seed": string(v.seed), "seed in base64": base64.StdEncoding.EncodeToString(v.seed), "seed in hex": hex.EncodeToString(v.seed), "secret id": strings.TrimSpace(string(secretID)), "token": "hvs.", "ciphertext": string(v.sealed.GetCiphertext())} {
		if strings.Contains(said, secret) {
			t.Errorf("the %s is in the log or the audit trail", name)
		}
	}
	testkit.Has(t, said, "permission denied", `the login's policy must grant`, "transit/keys/"+r.Key)
}

func TestOutage(t *testing.T) {
	for _, away := range []string{"shut", "dead", "sealed"} {
		t.Run(away, func(t *testing.T) {
			v := vault
			if away == "sealed" { // all of a Vault is, so it has to be one of its own
				v = vaulttest.New(t, vaulttest.Options{})
				testkit.Must(t, kmsrig.Prepare(t.Context(), v))
			}
			r := kmsrig.New(t, v)
			p := r.Start("--call-timeout=300ms")
			id := p.Ready()
			old := encrypt(t, p, "1")
			switch away {
			case "shut":
				r.Gate.Shut()
			case "dead":
				r.Gate.Dead()
			case "sealed":
				testkit.Must(t, v.Seal(t.Context()))
			}
			p.Eventually("the outage shows in Status", func() bool {
				s, err := p.Status()
				return err == nil && strings.HasPrefix(s.GetHealthz(), "Vault cannot be used since") && s.GetKeyId() == id
			})
			s, _ := p.Status()
			if strings.Contains(s.GetHealthz(), "127.0.0.1") || strings.Contains(s.GetHealthz(), r.Key) {
				t.Errorf("Status names servers or keys: %s", s.GetHealthz())
			}
			mustDecrypt(t, p, old)
			mustDecrypt(t, p, encrypt(t, p, "2")) // a new seed, as after a restart of the API server
			switch away {
			case "sealed":
				testkit.Must(t, v.Unseal(t.Context()))
			default:
				r.Gate.Open()
			}
			testkit.Equal(t, "the outage changed the key id", p.Ready(), id)
		})
	}
}

// Without the local key a new seed needs Vault, and one that was opened does not.
func TestOutageWithoutLocalKey(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.Start("--local-key=false", "--call-timeout=300ms")
	p.Ready()
	old := encrypt(t, p, "1")
	r.Gate.Shut()
	mustDecrypt(t, p, old)
	_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"})
	wantCode(t, err, codes.Unavailable, "Vault cannot be used")
}
