package vault_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestForeignLogin has the same at the login.
func TestForeignLogin(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404} {
		b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
		b.login = answering(status, `{"message":"Forbidden"}`)
		_, err := newProvider(t, nil).Fetch(t.Context(), brokenRequest("v", b.URL, nil))
		testkit.Fails(t, err, fault.BadAnswer, "a proxy, ingress or firewall before Vault")
	}
}

// TestDenialIsCertain denies a live volume. The refusal counts at once if the server knows the Vault
// token, and otherwise when it is repeated later.
func TestDenialIsCertain(t *testing.T) {
	refuse := answering(403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)
	known := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "lookup-self") {
			answering(200, `{"request_id":"1","data":{"id":"x"}}`)(w, r)
			return
		}
		refuse(w, r)
	}
	begin := func(t *testing.T) (*broken, *clock, *vault.Provider, provider.Request) {
		b, c := newBroken(t, answering(200, `{"data":{"k":"v"}}`)), &clock{}
		p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
		r := brokenRequest("v", b.URL, nil)
		r.Current = mustFetch(t, p, r).Versions
		r.Fresh = true
		return b, c, p, r
	}
	t.Run("known token", func(t *testing.T) {
		b, _, p, r := begin(t)
		b.setRead(known)
		testkit.Failure(p.Fetch(t.Context(), r))(t, fault.Denied)
	})
	t.Run("unknown token", func(t *testing.T) {
		b, c, p, r := begin(t)
		b.setRead(refuse)
		for _, step := range []struct {
			wait time.Duration
			want fault.Reason
		}{{0, fault.Unverified}, {2 * time.Second, fault.Unverified}, {4 * time.Second, fault.Denied}, {time.Minute, fault.Denied}} {
			c.advance(step.wait)
			_, err := p.Fetch(t.Context(), r)
			if fault.Of(err) != step.want {
				t.Errorf("%s later: %s, want %s: %v", step.wait, fault.Of(err), step.want, err)
			}
			if after := fault.RetryAfter(err); step.want == fault.Unverified && (after <= 0 || after > 5*time.Second) {
				t.Errorf("asked again after %s", after)
			}
		}
	})
	t.Run("answered between", func(t *testing.T) {
		b, c, p, r := begin(t)
		for range 3 {
			b.setRead(refuse)
			testkit.Failure(p.Fetch(t.Context(), r))(t, fault.Unverified)
			c.advance(time.Minute)
			b.setRead(answering(200, `{"data":{"k":"v"}}`))
			mustFetch(t, p, r)
			c.advance(time.Minute)
		}
	})
	t.Run("known after the refusal", func(t *testing.T) {
		b, _, p, r := begin(t)
		looked := false // the server learns of the token between the requests
		b.setRead(func(w http.ResponseWriter, q *http.Request) {
			switch {
			case strings.HasSuffix(q.URL.Path, "lookup-self"):
				looked = true
				known(w, q)
			case looked:
				answering(200, `{"data":{"k":"v2"}}`)(w, q)
			default:
				refuse(w, q)
			}
		})
		wantFile(t, mustFetch(t, p, r), "a", "v2")
	})
}

// standby is a proxy before a real Vault that plays a standby which is behind:
// it knows no token that is younger than its lag, and answers reads as they
// were when it was frozen.
type standby struct {
	*httptest.Server
	mu     sync.Mutex
	now    func() time.Time
	lag    time.Duration
	tokens map[string]time.Time
	frozen bool
	kept   map[string][]byte
}

func newStandby(t *testing.T, w *world, now func() time.Time) *standby {
	s := &standby{now: now, tokens: map[string]time.Time{}, kept: map[string][]byte{}}
	g := newGate(t, w.Address)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(g.proxy, w, r) }))
	t.Cleanup(s.Close)
	return s
}

func (s *standby) serve(active http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	born, known := s.tokens[r.Header.Get("X-Vault-Token")]
	unknown := known && s.now().Sub(born) < s.lag
	old := s.kept[r.URL.RequestURI()]
	if !s.frozen {
		old = nil
	}
	s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && unknown:
		answering(403, `{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`)(w, r)
		return
	case r.Method == http.MethodGet && old != nil:
		_, _ = w.Write(old)
		return
	}
	r.Header.Del("Accept-Encoding")
	rec := httptest.NewRecorder()
	active.ServeHTTP(rec, r)
	s.learn(r, rec)
	maps.Copy(w.Header(), rec.Header())
	w.WriteHeader(rec.Code)
	_, _ = io.Copy(w, bytes.NewReader(rec.Body.Bytes()))
}

func (s *standby) learn(r *http.Request, rec *httptest.ResponseRecorder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var said struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if json.Unmarshal(rec.Body.Bytes(), &said) == nil && said.Auth.Token != "" {
		s.tokens[said.Auth.Token] = s.now()
	}
	if r.Method == http.MethodGet && rec.Code == 200 {
		s.kept[r.URL.RequestURI()] = bytes.Clone(rec.Body.Bytes())
	}
}

func (s *standby) set(lag time.Duration, frozen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lag, s.frozen = lag, frozen
}

// TestLaggingStandby: behind a standby that learns of tokens late, a live volume is denied only once
// its policy denies it.
func TestLaggingStandby(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	w.putShare(t, "v")
	c := &clock{}
	s := newStandby(t, w, c.now)
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	r := w.longTokens(t, w.request(t, w.pod("app"), map[string]string{"vaultAddress": s.URL}, "- {objectName: a, secretPath: kv1/share, secretKey: k}"))
	r.Current = mustFetch(t, p, r).Versions
	r.Fresh = true
	s.set(4*time.Second, false)
	testkit.Must(t, w.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil))
	c.advance(time.Minute)
	_, err := p.Fetch(t.Context(), r)
	if fault.Of(err) != fault.Unverified || !strings.Contains(err.Error(), "invalid token") {
		t.Fatalf("a token that the standby does not know yet: %s: %v", fault.Of(err), err)
	}
	c.advance(fault.RetryAfter(err))
	wantFile(t, mustFetch(t, p, r), "a", "v")
	testkit.Must(t, denyKV1(t, w))
	c.advance(time.Minute)
	_, err = p.Fetch(t.Context(), r)
	if fault.Of(err) == fault.Unverified { // the new login that it tried is too young
		c.advance(fault.RetryAfter(err))
		_, err = p.Fetch(t.Context(), r)
	}
	testkit.Fails(t, err, fault.Denied)
}

// TestOlderVersionReplacesNoNewer reads a KV v2 secret through a standby that
// is behind, from the volume and from a new one of the same identity.
func TestOlderVersionReplacesNoNewer(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	c := &clock{}
	s := newStandby(t, w, c.now)
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	wish := func(address string) provider.Request {
		r := w.longTokens(t, w.request(t, w.pod("app"), map[string]string{"vaultAddress": address}, "- {objectName: a, secretPath: kv2/data/late, secretKey: k, optional: true}"))
		r.Fresh = true
		return r
	}
	w.kv2(t, "late", map[string]any{"k": "one"})
	r := wish(s.URL)
	wantFile(t, mustFetch(t, p, r), "a", "one")
	w.kv2(t, "late", map[string]any{"k": "two"})
	first := mustFetch(t, p, r)
	wantFile(t, first, "a", "two")
	r.Current = first.Versions
	// Back to version 1, as the standby would say it.
	s.mu.Lock()
	for uri, body := range s.kept {
		if strings.Contains(uri, "kv2/data/late") {
			s.kept[uri] = olderBody(t, body)
		}
	}
	s.mu.Unlock()
	s.set(0, true)
	for _, r := range []provider.Request{r, wish(s.URL)} {
		c.advance(time.Minute)
		payload, err := p.Fetch(t.Context(), r)
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "version 1, after version 2") || fault.RetryAfter(err) <= 0 {
			t.Errorf("%v, %s: %v", payload, fault.Of(err), err)
		}
	}
	s.set(0, false)
	wantFile(t, mustFetch(t, p, r), "a", "two")

	// A secret that is made again counts from 1, and a deleted one is gone.
	testkit.Value(w.Client().Logical().DeleteWithContext(t.Context(), "kv2/metadata/late"))(t)
	w.kv2(t, "late", map[string]any{"k": "again"})
	wantFile(t, mustFetch(t, p, r), "a", "again")
	w.kv2(t, "late", map[string]any{"k": "again 2"})
	wantFile(t, mustFetch(t, p, r), "a", "again 2")
	testkit.Value(w.Client().Logical().DeleteWithContext(t.Context(), "kv2/data/late"))(t)
	if payload := mustFetch(t, p, r); len(payload.Files) != 0 {
		t.Errorf("a deleted optional secret: %v", files(payload))
	}
}

// olderBody is the answer of version 1, which was written earlier.
func olderBody(t *testing.T, body []byte) []byte {
	t.Helper()
	var all map[string]any
	testkit.Must(t, json.Unmarshal(body, &all))
	data := all["data"].(map[string]any)
	data["data"] = map[string]any{"k": "one"}
	meta := data["metadata"].(map[string]any)
	meta["version"] = 1
	at := testkit.Value(time.Parse(time.RFC3339Nano, meta["created_time"].(string)))(t)
	meta["created_time"] = at.Add(-time.Second).Format(time.RFC3339Nano)
	return testkit.Value(json.Marshal(all))(t)
}

// TestUnmountedEngine unmounts an engine that a live volume and a new one use.
func TestUnmountedEngine(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	testkit.Must(t, w.EnableKV(t.Context(), "gone", 1))
	testkit.Must(t, w.Policy(t.Context(), "app", policy+"\npath \"gone/*\" { capabilities = [\"read\"] }"))
	testkit.Must(t, w.PutKV1(t.Context(), "gone", "a", map[string]any{"k": "v"}))
	p := newProvider(t, nil)
	const objects = "- {objectName: a, secretPath: gone/a, secretKey: k, optional: true}"
	r := w.request(t, w.pod("app"), nil, objects)
	r.Current = mustFetch(t, p, r).Versions
	testkit.Must(t, w.Client().Sys().UnmountWithContext(t.Context(), "gone"))
	r.Fresh = true
	testkit.Failure(p.Fetch(t.Context(), r))(t, fault.NotFound, "no engine is mounted there") // a live volume
	other := w.request(t, w.pod("app"), nil, objects)
	other.Fresh = true // not what the account's other volume was given moments ago
	if payload := mustFetch(t, p, other); len(payload.Files) != 0 {
		t.Errorf("a new volume: %v", files(payload))
	}
	testkit.Failure(p.Fetch(t.Context(), r))(t, fault.NotFound) // a live volume beside a new one
}

// TestNumUses has a role whose tokens are good for a number of requests.
func TestNumUses(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	testkit.Must(t, w.Write(t.Context(), "pki/roles/leasing", map[string]any{"allow_any_name": true, "ttl": "1h", "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	var reads strings.Builder
	for i := range 8 {
		w.kv1(t, fmt.Sprint("n", i), map[string]any{"k": fmt.Sprint("v", i)})
		fmt.Fprintf(&reads, "- {objectName: f%d, secretPath: kv1/n%d, secretKey: k}\n", i, i)
	}
	const lease = "- {objectName: crt, secretPath: pki/issue/leasing, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example}}\n"
	for uses, logins := range map[int]int{1: 8, 2: 4, 3: 3, 100: 1} {
		testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_num_uses": uses}))
		p := newProvider(t, nil)
		r := w.request(t, w.pod("app"), nil, reads.String())
		counts := w.counted(t, func() {
			payload := mustFetch(t, p, r)
			wantFile(t, payload, "f7", "v7")
			r.Current = payload.Versions
		})
		if n := under(counts, "/login"); n < logins || n > 8 || under(counts, "kv1/") != 8 {
			t.Errorf("%d uses: %v, want about %d logins and 8 reads", uses, counts, logins)
		}
		r.Fresh = true
		mustFetch(t, p, r)
		if err := p.Release(t.Context(), r.Volume); err != nil {
			t.Errorf("%d uses: %v", uses, err)
		}
		leased := w.request(t, w.pod("app"), nil, lease)
		for range 2 { // the first teaches that it is a lease
			payload, err := p.Fetch(t.Context(), leased)
			if uses == 1 && (fault.Of(err) != fault.Rejected || !strings.Contains(err.Error(), "token_num_uses")) {
				t.Errorf("a lease with one use: %v, %v", payload, err)
			}
			if uses > 1 && err != nil {
				t.Errorf("a lease with %d uses: %v", uses, err)
			}
		}
		if err := p.Release(t.Context(), leased.Volume); err != nil {
			t.Errorf("%d uses: %v", uses, err)
		}
	}
	testkit.Eventually(t, "no lease is left", func() bool { return len(w.leases(t, "sys/leases/lookup/pki/issue/leasing")) == 0 })
}

// TestIssuesArePaced has a store that gives lives of all lengths, and counts
// how often it is asked for another in a minute.
func TestIssuesArePaced(t *testing.T) {
	year9999 := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	pki := func(end func(time.Time) time.Time) func(time.Time) string {
		return func(now time.Time) string {
			return fmt.Sprintf(`{"request_id":"1","data":{"certificate":"c","private_key":"key","expiration":%d,"serial_number":"1"}}`, end(now).Unix())
		}
	}
	leased := func(seconds int) func(time.Time) string {
		return func(time.Time) string {
			return fmt.Sprintf(`{"request_id":"1","lease_id":"l","lease_duration":%d,"renewable":false,"data":{"certificate":"u"}}`, seconds)
		}
	}
	text := certificateUntil(t, year9999)
	for name, tc := range map[string]struct {
		answer func(time.Time) string
		least  int
		most   int
	}{
		"certificate until 9999": {pki(func(time.Time) time.Time { return year9999 }), 1, 1},
		"certificate without expiration, until 9999": {func(time.Time) string {
			return fmt.Sprintf(`{"request_id":"1","data":{"certificate":%q,"private_key":"key"}}`, text)
		}, 1, 1},
		"certificate that is over":   {pki(func(now time.Time) time.Time { return now.Add(-time.Hour) }), 1, 13},
		"certificate of a second":    {pki(func(now time.Time) time.Time { return now.Add(time.Second) }), 1, 13},
		"certificate of 15 s":        {pki(func(now time.Time) time.Time { return now.Add(15 * time.Second) }), 5, 10},
		"certificate of an hour":     {pki(func(now time.Time) time.Time { return now.Add(time.Hour) }), 1, 1},
		"lease of no time":           {leased(0), 1, 13},
		"lease of a second":          {leased(1), 1, 13},
		"lease of 3000 years":        {leased(3000 * 365 * 86400), 1, 1},
		"lease of a day":             {leased(86400), 1, 1},
		"lease of 15 s, not renewed": {leased(15), 5, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, b := &clock{}, newBroken(t, nil)
			b.setRead(func(w http.ResponseWriter, r *http.Request) { answering(200, tc.answer(c.now()))(w, r) })
			p := newProvider(t, func(cfg *vault.Config) { cfg.Now, cfg.DefaultInterval = c.now, time.Second })
			r := brokenRequest("v", b.URL, map[string]string{"objects": "[{objectName: a, secretPath: pki/issue/web, method: POST, secretKey: certificate}]"})
			r.Tokens["vault"] = longToken(r)
			for range 120 {
				r.Current = mustFetch(t, p, r).Versions
				c.advance(500 * time.Millisecond)
			}
			if n := b.count("pki/issue"); n < tc.least || n > tc.most {
				t.Errorf("%d were issued in a minute, want %d to %d", n, tc.least, tc.most)
			}
		})
	}
}

// certificateUntil is a certificate as PEM.
func certificateUntil(t *testing.T, end time.Time) string {
	t.Helper()
	made := testkit.Value(pki.SelfSigned(x509.Certificate{NotAfter: end}))(t)
	return string(made.Cert)
}
