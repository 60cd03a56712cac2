package vault_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestReleaseIsBounded(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, func(c *vault.Config) { c.ReleaseTimeout = 100 * time.Millisecond })
	r := brokenRequest("v", b.URL, nil)
	mustFetch(t, p, r)
	b.setRead(hang)
	if err := p.Release(t.Context(), "v"); fault.Of(err) != fault.Timeout {
		t.Errorf("a store that hangs: %v", err)
	}
	b.setRead(answering(204, ""))
	if err := p.Release(t.Context(), "v"); err != nil {
		t.Errorf("again: %v", err)
	}
	n := b.count("revoke-self")
	if n < 2 {
		t.Errorf("%d revocations, want another try", n)
	}
	if err := p.Release(t.Context(), "v"); err != nil || b.count("revoke-self") != n {
		t.Errorf("a third release: %v", err)
	}
}

func TestRevocationSwitchedOff(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, func(c *vault.Config) { c.DisableRevocation = true })
	mustFetch(t, p, brokenRequest("v", b.URL, nil))
	if err := p.Release(t.Context(), "v"); err != nil || b.count("revoke") != 0 {
		t.Errorf("%v, requests %q", err, b.seen)
	}
}

// TestTokensWithoutTheDefaultPolicy has tokens that may neither renew nor revoke themselves: the log
// says so once for the role, and the driver tries the revocation.
func TestTokensWithoutTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	pg.Role(t, w.Server, "app", "1h", "24h")
	testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_no_default_policy": true}))
	c := &clock{}
	var log bytes.Buffer
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now, cfg.Logger = c.now, slog.New(slog.NewTextHandler(&log, nil)) })
	const user = "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n"
	for range 2 {
		r := w.longTokens(t, w.request(t, w.pod("app"), nil, user))
		mustFetch(t, p, r)
		c.advance(42 * time.Minute)
		mustFetch(t, p, r)
		counts := w.counted(t, func() {
			testkit.Check(t, p.Release(t.Context(), r.Volume))
		})
		if counts["auth/token/revoke-self"] != 2 {
			t.Errorf("requests %v, want both tokens tried", counts)
		}
	}
	if n := strings.Count(log.String(), "revoke itself"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, log.String())
	}
}

// The pod that takes the last one's place finds a warm connection.
func TestConnectionOutlivesTheLastVolume(t *testing.T) {
	var from []string
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		from = append(from, r.RemoteAddr)
		answering(200, `{"data":{"k":"v"}}`)(w, r)
	})
	p := newProvider(t, nil)
	for _, volume := range []string{"first", "second"} {
		mustFetch(t, p, brokenRequest(volume, b.URL, nil))
		testkit.Must(t, p.Release(t.Context(), volume))
	}
	if len(from) < 2 || from[0] != from[len(from)-1] {
		t.Errorf("asked from %q, not over one connection", from)
	}
}
