package kms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"

	"fmt"
	"maps"
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
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// vault is shared by the tests; each has a key of its own.
var vault *vaulttest.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var err error
	if vault, err = vaulttest.Start(ctx, vaulttest.Options{Progress: os.Stderr}); err == nil {
		defer func() { _ = vault.Stop() }()
		err = kmsrig.Prepare(ctx, vault)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

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
	sealed, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: bytes.Clone(s), Uid: uid})
	if err != nil {
		t.Fatal(err)
	}
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
	if err := decrypt(t, p, v, "some-uid"); err != nil {
		t.Error(err)
	}
}

func wantCode(t testing.TB, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("got %v, want %s with %q", err, code, words)
	}
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
		if got := other.Ready(); got != id {
			t.Errorf("another node announces %q, this one %q", got, id)
		}
		mustDecrypt(t, other, v)
		mustDecrypt(t, p, encrypt(t, other, "uid-2"))
	})
}

// What one mode has encrypted the other opens: the switch may be turned at any
// time.
func TestModesOpenEachOther(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	a, b := r.Start("--local-key=true"), r.Start("--local-key=false")
	if a.Ready() != b.Ready() {
		t.Error("the key ids differ")
	}
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

// A node that has not seen the rotation yet decrypts what another node has
// encrypted with the new version.
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
	if late.Ready() != id {
		t.Error("a Decrypt changed the status")
	}
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
		p.Eventually("the replaced key shows in Status", func() bool {
			s, err := p.Status()
			return err == nil && strings.Contains(s.GetHealthz(), "deleted and made again") && s.GetKeyId() == id
		})
		_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"})
		wantCode(t, err, codes.FailedPrecondition, "made again")
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

// A key that is gone, and comes back from its own backup, is the old one: what was
// encrypted before opens again.
func TestKeyRestored(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		r.Write("transit/keys/"+r.Key+"/config", map[string]any{"exportable": true, "allow_plaintext_backup": true})
		p := r.Start(flag)
		id := p.Ready()
		v := encrypt(t, p, "1")
		backup := r.Read("transit/backup/" + r.Key)["backup"]
		r.DeleteKey()
		p.Eventually("the deleted key shows in Status", func() bool {
			s, err := p.Status()
			return err == nil && s.GetHealthz() != "ok" && s.GetKeyId() == id
		})
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
		p.Eventually("the lost version shows in Status", func() bool {
			s, err := p.Status()
			return err == nil && strings.Contains(s.GetHealthz(), "put back to an earlier state") && s.GetKeyId() == id
		})
		_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"})
		wantCode(t, err, codes.FailedPrecondition, "earlier state")
		if c := p.Condition(); c.Problem == nil || c.Problem.Kind != key.WentBack {
			t.Errorf("condition %+v", c)
		}
	})
}

func TestOutage(t *testing.T) {
	for _, away := range []string{"shut", "dead", "sealed"} {
		t.Run(away, func(t *testing.T) {
			v := vault
			if away == "sealed" { // all of a Vault is, so it has to be one of its own
				v = vaulttest.New(t, vaulttest.Options{})
				if err := kmsrig.Prepare(t.Context(), v); err != nil {
					t.Fatal(err)
				}
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
				if err := v.Seal(t.Context()); err != nil {
					t.Fatal(err)
				}
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
				if err := v.Unseal(t.Context()); err != nil {
					t.Fatal(err)
				}
			default:
				r.Gate.Open()
			}
			if p.Ready() != id {
				t.Error("the outage changed the key id")
			}
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

// A plugin that starts while Vault is away listens, says so, and works once
// Vault is there.
func TestStartDuringOutage(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	r.Gate.Shut()
	p := r.Start()
	_, err := p.Status()
	wantCode(t, err, codes.Unavailable, "no version of the key has passed a round trip yet")
	r.Gate.Open()
	mustDecrypt(t, p, encrypt(t, p, "1"+p.Ready()[:0]))
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
				if err := decrypt(t, p, v, fmt.Sprintf("uid-%d", i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := r.Requests(mark)["decrypt"]; got != 1 {
			t.Errorf("%d Decrypts, want 1", got)
		}
	})
}

func waitReady(p *kmsrig.Plugin) *kmsrig.Plugin { p.Ready(); return p }

// The audit trail and Vault's own have the API server's uid.
func TestAuditTrail(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		v := encrypt(t, waitReady(r.Start(flag)), "uid-enc")
		p := r.Start(flag)
		p.Ready()
		mark := r.Mark()
		if err := decrypt(t, p, v, "uid-dec-1"); err != nil {
			t.Fatal(err)
		}
		if err := decrypt(t, p, v, "uid-dec-2"); err != nil {
			t.Fatal(err)
		}
		v.sealed.KeyId = strings.Replace(v.sealed.GetKeyId(), "-v1-", "-v2-", 1)
		wantCode(t, decrypt(t, p, v, "uid-dec-3"), codes.InvalidArgument, "different versions")
		p.Stop()
		text, err := os.ReadFile(p.Config.Serve.AuditLog)
		if err != nil {
			t.Fatal(err)
		}
		type line struct {
			Event, Outcome, UID, KeyID, AnsweredBy string
			Peer                                   struct{ PID, UID int }
			CorrelationIDs                         []string
		}
		byMemory := map[string]string{"--local-key=true": "local-key", "--local-key=false": "memory"}[flag]
		var got []line
		for one := range bytes.Lines(text) {
			var l line
			if err := json.Unmarshal(one, &l); err != nil {
				t.Fatal(err)
			}
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
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("audit lines\n%+v, want\n%+v", got, want)
		}
		entries, err := vault.AuditEntriesSince(t.Context(), mark)
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(entries, func(e vaulttest.AuditEntry) bool {
			return e.Path == "transit/decrypt/"+r.Key && slices.Contains(e.Headers["x-correlation-id"], "uid-dec-1")
		})
		if !found {
			t.Error("Vault's audit log does not have the uid")
		}
	})
}

// TestHostile: what was changed in etcd, or made up, opens nothing, and is refused
// with words about the value.
func TestHostile(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	local, plain := r.Start(), r.Start("--local-key=false")
	id := local.Ready()
	plain.Ready()
	a, b := encrypt(t, local, "1"), encrypt(t, plain, "2")
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
	}, id)
	if otherID == id {
		otherID = id[:len(id)-1] + map[bool]string{true: "e", false: "f"}[strings.HasSuffix(id, "f")]
	}
	for name, q := range map[string]*kmsv2.DecryptRequest{
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
	} {
		for _, p := range []*kmsrig.Plugin{local, plain} {
			_, err := p.Client.Decrypt(t.Context(), q)
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
			for _, private := range []string{"127.0.0.1", r.Key, "auth/"} {
				if strings.Contains(fmt.Sprint(err), private) {
					t.Errorf("%s: the error shows %q: %v", name, private, err)
				}
			}
		}
	}
	for size, want := range map[int]codes.Code{0: codes.InvalidArgument, 1: codes.OK, 512: codes.OK, 513: codes.InvalidArgument} {
		_, err := plain.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: make([]byte, size), Uid: "\r\nX-Vault-Token: x"})
		if status.Code(err) != want {
			t.Errorf("a plaintext of %d bytes: %v", size, err)
		}
	}
	huge := with(a, func(q *kmsv2.DecryptRequest) { q.Uid = strings.Repeat("x", 1<<20) })
	if _, err := local.Client.Decrypt(t.Context(), huge); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of 1 MiB: %v", err)
	}
	mustDecrypt(t, local, a)
	mustDecrypt(t, plain, b)
}

// Another cluster with the same Transit key opens nothing of this one.
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

// After the outage limit nothing goes on, and all works again once Vault is back.
func TestOutageLimit(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	c := kmsrig.Config(t, r.Args("--call-timeout=300ms")...)
	c.Timing.OutageLimit = 2 * time.Second // less than the least that can be set
	p := kmsrig.Start(t, c)
	id := p.Ready()
	v := encrypt(t, p, "1")
	r.Gate.Shut()
	p.Eventually("the limit is over", func() bool { return p.Condition().Expired && !p.Condition().Local })
	_, err := p.Status()
	wantCode(t, err, codes.Unavailable, "outage limit")
	_, err = p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "2"})
	wantCode(t, err, codes.Unavailable, "outage limit")
	if err := decrypt(t, p, v, "3"); err == nil {
		t.Error("a seed is opened after the limit, without Vault")
	}
	r.Gate.Open()
	if p.Ready() != id {
		t.Error("the key id changed")
	}
	mustDecrypt(t, p, v)
	mustDecrypt(t, p, encrypt(t, p, "4"))
}

// Nothing secret reaches the log, the audit trail, an error or the metrics.
func TestNothingSecretIsSaid(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.Start("--local-key=false", "--log-level=debug")
	p.Ready()
	v := encrypt(t, p, "1")
	mustDecrypt(t, p, v)
	r.SetPolicy(`path "sys/nothing" { capabilities = ["read"] }`)
	p.Eventually("the denial shows", func() bool { return strings.Contains(p.Log.String(), "permission denied") })
	secretID, err := os.ReadFile(r.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	trail, err := os.ReadFile(p.Config.Serve.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	said := p.Log.String() + string(trail)
	for name, secret := range map[string]string{"seed": string(v.seed), "secret id": strings.TrimSpace(string(secretID)), "token": "hvs.", "ciphertext": string(v.sealed.GetCiphertext())} {
		if strings.Contains(said, secret) {
			t.Errorf("the %s is in the log or the audit trail", name)
		}
	}
	for _, words := range []string{"permission denied", `the login's policy must grant`, "transit/keys/" + r.Key} {
		if !strings.Contains(said, words) {
			t.Errorf("the log does not say %q", words)
		}
	}
}

// Wrong set-ups have an error in the log that says what to do, and work once they
// are put right.
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

// A policy with create would have a deleted key made again without a word.
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
		return strings.Contains(p.Log.String(), "grant update alone") && p.Condition().MayCreate
	})
}

// Pinned versions: min_encryption_version above the announced version is followed
// at the next look, and nothing is encrypted with another one in between.
func TestMinEncryptionVersion(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.Start("--local-key=false", "--poll-interval=10m")
	first := p.Ready()
	r.Rotate()
	r.Write("transit/keys/"+r.Key+"/config", map[string]any{"min_encryption_version": 2})
	_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "1"})
	wantCode(t, err, codes.InvalidArgument, "Vault cannot be used")
	p.Eventually("the failed call had the key looked at", func() bool { return p.Ready() != first })
	mustDecrypt(t, p, encrypt(t, p, "2"))
}
