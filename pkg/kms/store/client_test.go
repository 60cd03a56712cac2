package store_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

type meter struct{ tries atomic.Int32 }

func (m *meter) VaultRequest(string, error, time.Duration) { m.tries.Add(1) }

func client(t *testing.T, budget time.Duration, urls ...string) (*store.Client, *meter) {
	t.Helper()
	var c config.Vault
	for _, u := range urls {
		a := testkit.Value(endpoint.ParseAddress(u))(t)
		c.Addresses = append(c.Addresses, a)
	}
	m := &meter{}
	s := testkit.Value(store.New(c, budget, m, slog.New(slog.DiscardHandler)))(t)
	return s, m
}

// answering is a server that gives every request the same answer.
func answering(t *testing.T, status int, body string, headers ...string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func request() store.Request {
	return store.Request{Operation: "encrypt", Method: http.MethodPost, Path: "transit/encrypt/k", Body: []byte(`{"plaintext":"c2VlZA=="}`), Token: secret.NewString("hvs.a-token-of-a-test"), Repeatable: true}
}

func TestAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		reason fault.Reason
		words  string
	}{
		"denied":             {403, `{"errors":["permission denied"]}`, fault.Denied, "permission denied"},
		"sealed":             {503, `{"errors":["Vault is sealed"]}`, fault.Unavailable, "unseal"},
		"rate limited":       {429, `{"errors":["slow down"]}`, fault.RateLimited, "slow down"},
		"wrong request":      {400, `{"errors":["no plaintext"]}`, fault.Rejected, "no plaintext"},
		"not found":          {404, `{"errors":[]}`, fault.NotFound, "Not Found"},
		"lagging":            {412, `{"errors":["required index state not present"]}`, fault.Unavailable, "index"},
		"proxy's refusal":    {403, `<html>no</html>`, fault.BadAnswer, "not Vault's"},
		"proxy's page":       {502, `<html>bad gateway</html>`, fault.Unavailable, "502"},
		"redirect":           {307, ``, fault.Unavailable, "--vault-addr"},
		"oversized":          {200, strings.Repeat("x", 257<<10), fault.BadAnswer, "larger than"},
		"oversized refusal":  {403, `{"errors":["` + strings.Repeat("x", 1<<20) + `"]}`, fault.BadAnswer, "larger than"},
		"token in a refusal": {403, `{"errors":["bad token hvs.a-token-of-a-test, hvs.CAESIJanother, s.abcdefghijklmnopqrstuvwx"]}`, fault.Denied, "[redacted]"},
		"lines in a refusal": {400, `{"errors":["a\nlevel=ERROR"]}`, fault.Rejected, "a level=ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := client(t, time.Second, answering(t, tc.status, tc.body, "Location", "https://elsewhere.example.com/v1/x"))
			r := request()
			body := r.Body
			_, err := c.Do(t.Context(), r)
			if fault.Of(err) != tc.reason || !strings.Contains(err.Error(), tc.words) || len(err.Error()) > 3000 {
				t.Errorf("%s: %.300v", fault.Of(err), err)
			}
			for _, s := range []string{"a-token-of-a-test", "CAESIJanother", "abcdefghijkl", "c2VlZA", "\n"} {
				testkit.Lacks(t, err.Error(), s)
			}
			testkit.Equal(t, "the request was not wiped", strings.Trim(string(body), "\x00"), "")
		})
	}
}

// The client asks another server if that may answer differently, and only then. The server that
// answered is asked first the next time.
func TestOrder(t *testing.T) {
	good := answering(t, 200, `{}`)
	for name, tc := range map[string]struct {
		first string
		ok    bool
		tries int32
	}{
		"sealed":        {answering(t, 503, `{"errors":["Vault is sealed"]}`), true, 2},
		"refused":       {"http://127.0.0.1:1", true, 2},
		"proxy":         {answering(t, 404, `nothing here`), true, 2},
		"lagging":       {answering(t, 400, `{"errors":["cannot encrypt with a version higher than the latest key version"]}`), true, 2},
		"denied":        {answering(t, 403, `{"errors":["permission denied"]}`), false, 1},
		"wrong request": {answering(t, 400, `{"errors":["bad"]}`), false, 1},
	} {
		c, m := client(t, time.Second, tc.first, good)
		_, err := c.Do(t.Context(), request())
		if (err == nil) != tc.ok || m.tries.Load() != tc.tries {
			t.Errorf("%s: %v after %d tries", name, err, m.tries.Load())
		}
		if !tc.ok {
			continue
		}
		if _, err := c.Do(t.Context(), request()); err != nil || m.tries.Load() != tc.tries+1 {
			t.Errorf("%s: the second request took %d tries: %v", name, m.tries.Load()-tc.tries, err)
		}
	}
}

// All addresses together have one budget, however many hang.
func TestBudget(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	var urls []string
	for range 4 {
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}))
		t.Cleanup(s.CloseClientConnections)
		urls = append(urls, s.URL)
	}
	c, m := client(t, 400*time.Millisecond, urls...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Do(ctx, request())
	if fault.Of(err) != fault.Timeout || ctx.Err() != nil || m.tries.Load() < 2 {
		t.Errorf("%v after %d tries", err, m.tries.Load())
	}
	c, _ = client(t, 4*time.Second, append(urls[:1:1], answering(t, 200, `{}`))...)
	if _, err := c.Do(ctx, request()); err != nil {
		t.Errorf("one hangs, the next answers: %v", err)
	}
}

// TLS errors name the settings.
func TestTLS(t *testing.T) {
	// A busy machine takes its time for a handshake, and what this is about comes
	// at once.
	const patience = time.Minute
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	c, _ := client(t, patience, s.URL)
	testkit.Error(c.Do(t.Context(), request()))(t, "--vault-ca-cert") // an unknown authority
	c, _ = client(t, patience, strings.Replace(s.URL, "https", "http", 1))
	if _, err := c.Do(t.Context(), request()); err == nil || !strings.Contains(err.Error(), "TLS") && !strings.Contains(err.Error(), "not Vault's") {
		t.Errorf("plain HTTP to a TLS server: %v", err)
	}
	a := testkit.Value(endpoint.ParseAddress("https://127.0.0.1:1"))(t)
	missing, err := store.New(config.Vault{Addresses: []endpoint.Address{a}, TLS: endpoint.TLS{CACertFile: "/nowhere/ca.pem"}}, patience, &meter{}, slog.New(slog.DiscardHandler))
	testkit.Must(t, err)
	if _, err := missing.Do(t.Context(), request()); err == nil || !strings.Contains(err.Error(), "--vault-ca-cert") || !strings.Contains(err.Error(), "the plugin's container") {
		t.Errorf("a missing file: %v", err)
	}
}

// Headers identify the client, and link the audit logs.
func TestHeaders(t *testing.T) {
	var got http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		_, _ = io.WriteString(w, `{}`)
	}))
	t.Cleanup(s.Close)
	c, _ := client(t, time.Second, s.URL)
	r := request()
	r.Correlation = "uid"
	testkit.Value(c.Do(t.Context(), r))(t)
	testkit.Equal(t, "the headers", fmt.Sprint(got["X-Correlation-Id"], got["X-Vault-Token"], got["X-Vault-Request"], got["X-Idempotency-Key"]), "[uid] [hvs.a-token-of-a-test] [true] []")
}
