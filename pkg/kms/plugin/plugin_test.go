package plugin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/login"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// engine answers as Vault does, at once: a Transit key, and logins by AppRole.
type engine struct {
	mu      sync.Mutex
	count   map[string]int
	away    error
	created []time.Time
	values  map[string][]byte
	ttl     time.Duration
	maxTTL  time.Duration
	token   string
	born    time.Time
}

func newEngine() *engine {
	return &engine{count: map[string]int{}, created: []time.Time{time.Unix(1_700_000_000, 0)}, values: map[string][]byte{}, ttl: 20 * time.Minute, maxTTL: 8 * time.Hour}
}

func (e *engine) Do(_ context.Context, r store.Request) (store.Answer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count[r.Operation]++
	if e.away != nil {
		return store.Answer{}, e.away
	}
	answer := func(v any) (store.Answer, error) {
		body, err := json.Marshal(v)
		return store.Answer{Body: body}, err
	}
	var in struct {
		Plaintext, Associated []byte
		Ciphertext            string
		Version               int `json:"key_version"`
	}
	fields := bytes.ReplaceAll(r.Body, []byte("associated_data"), []byte("associated"))
	if r.Body != nil && r.Operation != "capabilities" {
		if err := json.Unmarshal(fields, &in); err != nil {
			return store.Answer{}, err
		}
	}
	switch r.Operation {
	case "login", "renew":
		if r.Operation == "login" {
			e.token, e.born = fmt.Sprint("token-", e.count["login"]), time.Now()
		}
		ttl := min(e.ttl, e.maxTTL-time.Since(e.born))
		return answer(map[string]any{"auth": map[string]any{"client_token": e.token, "lease_duration": ttl.Seconds(), "renewable": true}})
	case "read-key":
		keys := map[string]int64{}
		for i, at := range e.created {
			keys[fmt.Sprint(i+1)] = at.Unix()
		}
		return answer(map[string]any{"data": map[string]any{"type": "aes256-gcm96", "latest_version": len(e.created), "min_decryption_version": 1, "keys": keys}})
	case "capabilities":
		return answer(map[string]any{"data": map[string]any{"capabilities": []string{"update"}}})
	case "encrypt":
		sum := sha256.Sum256(append(append(bytes.Clone(in.Associated), 0), in.Plaintext...))
		ciphertext := fmt.Sprintf("vault:v%d:%s", in.Version, base64.StdEncoding.EncodeToString(sum[:]))
		e.values[string(in.Associated)+ciphertext] = bytes.Clone(in.Plaintext)
		return answer(map[string]any{"data": map[string]any{"ciphertext": ciphertext, "key_version": in.Version}})
	case "decrypt":
		plaintext, ok := e.values[string(in.Associated)+in.Ciphertext]
		if !ok {
			return store.Answer{}, fault.New(fault.Rejected, "%w", &store.Refusal{Status: 400, Words: "cipher: message authentication failed"})
		}
		return answer(map[string]any{"data": map[string]any{"plaintext": plaintext}})
	}
	return store.Answer{}, errors.New("no such operation")
}

func (e *engine) counts() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.count)
}

func (e *engine) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.count)
}

func (e *engine) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

type meter struct{}

func (meter) Login(error)         {}
func (meter) TokenEnds(time.Time) {}

func newPlugin(t testing.TB, e *engine, change func(*config.Config)) *plugin.Plugin {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret-id")
	testkit.Must(t, os.WriteFile(path, []byte("x"), 0o600))
	c := config.Config{
		Serve:   config.Serve{LocalKey: true},
		Login:   config.Login{Method: config.AppRole, Mount: "approle", RoleID: "r", SecretIDFile: path},
		Transit: config.Transit{Mount: "transit", Key: "k", ClusterID: "c"},
		Timing:  config.Timing{CallTimeout: 2500 * time.Millisecond, Poll: 30 * time.Second, Proof: 5 * time.Minute, OutageLimit: 24 * time.Hour},
	}
	if change != nil {
		change(&c)
	}
	log := slog.New(slog.DiscardHandler)
	s := login.New(c.Login, e, meter{}, log)
	return plugin.New(c, transit.New(c.Transit, s), s, log)
}

// run runs a plugin in a bubble of fake time until the test's end.
func run(t *testing.T, p *plugin.Plugin) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-done })
	synctest.Wait()
}

// TestIdleRequests counts a plugin's requests to Vault in a day without calls: at most 4 a minute,
// logins and renewals included. Status makes none.
func TestIdleRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine()
		p := newPlugin(t, e, nil)
		run(t, p)
		time.Sleep(75 * time.Second) // the start; no look is at the end of a minute then
		total := 0
		for minute := range 24 * 60 {
			e.reset()
			for range 60 {
				time.Sleep(time.Second)
				if _, healthz, err := p.Status(); err != nil || healthz != "ok" {
					t.Fatalf("minute %d: %q, %v", minute, healthz, err)
				}
			}
			sum := 0
			for _, n := range e.counts() {
				sum += n
			}
			total += sum
			if sum > 4 {
				t.Fatalf("minute %d: %v", minute, e.counts())
			}
		}
		t.Logf("%.2f requests a minute", float64(total)/(24*60))
	})
}

// TestWhileVaultIsAway: one request every 10 seconds at most, and the limit.
func TestWhileVaultIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine()
		p := newPlugin(t, e, nil)
		run(t, p)
		id, _, err := p.Status()
		testkit.Must(t, err)
		sealed, _, err := p.Encrypt(t.Context(), []byte("a seed of thirty-two bytes......"), "uid")
		testkit.Must(t, err)
		e.set(func() { e.away = fault.New(fault.Unavailable, "away") })
		time.Sleep(time.Minute)
		e.reset()
		time.Sleep(time.Hour)
		sum := 0
		for _, n := range e.counts() {
			sum += n
		}
		if sum < 300 || sum > 1000 {
			t.Errorf("%d requests in an hour in which Vault is away: %v", sum, e.counts())
		}
		if got, healthz, err := p.Status(); got != id || healthz == "ok" || err != nil {
			t.Errorf("an hour later: %q %q %v", got, healthz, err)
		}
		if _, _, err := p.Decrypt(t.Context(), sealed, "uid"); err != nil {
			t.Error(err)
		}
		time.Sleep(22 * time.Hour)
		if _, _, err := p.Status(); err != nil {
			t.Errorf("before the limit: %v", err)
		}
		time.Sleep(2 * time.Hour)
		_, _, err = p.Status()
		_, _, encryptErr := p.Encrypt(t.Context(), []byte("seed"), "uid")
		_, _, decryptErr := p.Decrypt(t.Context(), sealed, "uid")
		c := p.Condition()
		if fault.Of(err) != fault.Unavailable || fault.Of(encryptErr) != fault.Unavailable || decryptErr == nil || c.Local || c.Opened != 0 {
			t.Errorf("after the limit: %v, %v, %v, %+v", err, encryptErr, decryptErr, c)
		}
		e.set(func() { e.away = nil })
		time.Sleep(time.Minute)
		if got, healthz, err := p.Status(); got != id || healthz != "ok" || err != nil {
			t.Errorf("Vault is back: %q %q %v", got, healthz, err)
		}
		if _, _, err := p.Decrypt(t.Context(), sealed, "uid"); err != nil {
			t.Error(err)
		}
	})
}

// An occasional failed read does not make all API servers unready at once, and a lagging standby
// does not count as a lost version.
func TestBlips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine()
		e.created = append(e.created, e.created[0].Add(time.Hour))
		p := newPlugin(t, e, nil)
		run(t, p)
		id, _, _ := p.Status()
		ok := func(what string) {
			t.Helper()
			if got, healthz, err := p.Status(); got != id || healthz != "ok" || err != nil {
				t.Errorf("%s: %q %q %v", what, got, healthz, err)
			}
		}
		for range 5 {
			e.set(func() { e.away = fault.New(fault.Unavailable, "away") })
			time.Sleep(25 * time.Second)
			ok("away")
			e.set(func() { e.away = nil })
			time.Sleep(25 * time.Second)
			ok("back")
		}
		both := e.created
		e.set(func() { e.created = both[:1] })
		for p.Condition().Failure == nil {
			time.Sleep(100 * time.Millisecond)
		}
		ok("a lagging standby")
		e.set(func() { e.created = both })
		time.Sleep(time.Minute)
		ok("a standby that has caught up")
		e.set(func() { e.created = both[:1] })
		time.Sleep(time.Minute)
		if _, healthz, _ := p.Status(); !strings.Contains(healthz, "earlier state") {
			t.Errorf("a lost version: %q", healthz)
		}
	})
}

// A proof finds out that a right is gone, although the key can be read.
func TestProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine()
		denied := &deny{engine: e}
		c := config.Config{
			Serve: config.Serve{LocalKey: true}, Login: config.Login{Method: config.Cert, Mount: "cert"}, Transit: config.Transit{Mount: "transit", Key: "k", ClusterID: "c"},
			Timing: config.Timing{CallTimeout: time.Second, Poll: 30 * time.Second, Proof: 5 * time.Minute, OutageLimit: 24 * time.Hour},
		}
		log := slog.New(slog.DiscardHandler)
		s := login.New(c.Login, denied, meter{}, log)
		p := plugin.New(c, transit.New(c.Transit, s), s, log)
		run(t, p)
		denied.decrypt.Store(true)
		time.Sleep(10 * time.Minute)
		if _, healthz, err := p.Status(); err != nil || !strings.Contains(healthz, "Denied") {
			t.Errorf("without decrypt: %q %v", healthz, err)
		}
		denied.decrypt.Store(false)
		time.Sleep(time.Minute)
		if _, healthz, err := p.Status(); err != nil || healthz != "ok" {
			t.Errorf("granted again: %q %v", healthz, err)
		}
	})
}

// deny refuses decrypt, as a policy does that lacks it.
type deny struct {
	*engine
	decrypt atomic.Bool
}

func (d *deny) Do(ctx context.Context, r store.Request) (store.Answer, error) {
	if r.Operation == "decrypt" && d.decrypt.Load() {
		return store.Answer{}, fault.New(fault.Denied, "%w", &store.Refusal{Status: 403, Words: "permission denied"})
	}
	return d.engine.Do(ctx, r)
}

// FuzzDecrypt: a value that Encrypt did not seal decrypts to nothing, and the error blames the
// value.
func FuzzDecrypt(f *testing.F) {
	e := newEngine()
	p := newPlugin(f, e, nil)
	ctx, stop := context.WithCancel(context.Background())
	f.Cleanup(stop)
	go func() { _ = p.Run(ctx) }()
	var good plugin.Sealed
	for {
		var err error
		if good, _, err = p.Encrypt(ctx, []byte("a seed of thirty-two bytes......"), "uid"); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	wrapped := good.Annotations[key.AnnotationLocalKey]
	f.Add(good.ID, good.Ciphertext, key.AnnotationLocalKey, wrapped)
	f.Add(good.ID, wrapped, "", []byte(nil))
	f.Add(good.ID, []byte("vault:v1:AAAA"), "", []byte(nil))
	f.Add(good.ID, []byte(`vault:v1:AAAA","x":"`), "a.b", []byte("x"))
	f.Add("mayfly-1-v2-0123456789abcdef0123456789abcdef", []byte("vault:v2:AAAA"), key.AnnotationLocalKey, []byte("vault:v2:AAAA"))
	f.Fuzz(func(t *testing.T, id string, ciphertext []byte, annotation string, value []byte) {
		s := plugin.Sealed{ID: id, Ciphertext: ciphertext}
		if annotation != "" {
			s.Annotations = map[string][]byte{annotation: value}
		}
		seed, _, err := p.Decrypt(t.Context(), s, "uid")
		same := id == good.ID && bytes.Equal(ciphertext, good.Ciphertext) && annotation == key.AnnotationLocalKey && bytes.Equal(value, wrapped)
		switch {
		case same && err != nil, !same && err == nil:
			t.Errorf("%q %q %q %q gave %q, %v", id, ciphertext, annotation, value, seed, err)
		case err != nil && fault.Of(err) != fault.InvalidArgument && fault.Of(err) != fault.Rejected:
			t.Errorf("%s: %v", fault.Of(err), err)
		}
	})
}

func TestCorrelation(t *testing.T) {
	for uid, want := range map[string]string{"4e0f5c6a-0b1d": "4e0f5c6a-0b1d", "": "", "a b": "", "a\r\nb": "", strings.Repeat("x", 129): "", "é": ""} {
		testkit.Equal(t, fmt.Sprintf("the correlation of %q", uid), plugin.CorrelationFor(uid), want)
	}
}
