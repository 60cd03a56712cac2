package suite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const oneObject = `[{secretPath: /app/a, fileName: a, secretType: static}]`

func postJSON(t *testing.T, url string, body map[string]any) map[string]any {
	t.Helper()
	return testkit.Value(tryPost(http.DefaultClient, url, body))(t)
}

func tryPost(c *http.Client, url string, body map[string]any) (map[string]any, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	resp, err := c.Post(url, "application/json", bytes.NewReader(text)) //nolint:noctx // a test's own request
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s, %v, %v", url, resp.Status, out, err)
	}
	return out, nil
}

// sharing: pods share a login and reads only if the class or the operator says that no role depends
// on the pod.
func sharing(t *testing.T, o Options) {
	const pods = 8
	all := func(w *world, params func() map[string]string) map[string]int {
		return w.counted(func() {
			var wg sync.WaitGroup
			for range pods {
				r := w.request(w.pod("web"), params())
				wg.Go(func() {
					if _, err := w.provider.Fetch(w.t.Context(), r); err != nil {
						w.t.Errorf("Fetch: %v", err)
					}
				})
			}
			wg.Wait()
		})
	}
	once, each := map[string]int{"/auth": 1, "/get-secret-value": 1}, map[string]int{"/auth": pods, "/get-secret-value": pods}
	for name, c := range map[string]struct {
		adjust func(*akeyless.Config)
		more   []string
		want   map[string]int
	}{
		"by default":                  {want: each},
		"class shares":                {more: []string{"sessionSharing", "serviceAccount"}, want: once},
		"operator shares":             {adjust: func(c *akeyless.Config) { c.ShareByServiceAccount = true }, want: once},
		"operator shares, class not":  {adjust: func(c *akeyless.Config) { c.ShareByServiceAccount = true }, more: []string{"sessionSharing", "pod"}, want: each},
		"access key is the identity":  {more: []string{"akeylessAccessType", "access_key", "akeylessAccessID", keyID, "akeylessAccessKey", accessKey}, want: once},
		"access key, class says pods": {more: []string{"akeylessAccessType", "access_key", "akeylessAccessID", keyID, "akeylessAccessKey", accessKey, "sessionSharing", "pod"}, want: each},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, o, c.adjust)
			w.PutStatic("/app/a", "value")
			w.wantCounts(all(w, func() map[string]string { return with(k8s(oneObject), c.more...) }), c.want)
		})
	}
}

// sessionRenewal has the driver log in again at two thirds of the life that the gateway gave.
func sessionRenewal(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: config, Audience: audience, Life: 30 * time.Minute})
	w.PutStatic("/app/a", "value")
	pod := w.pod("web")
	for _, poll := range []struct {
		after  time.Duration
		logins int
	}{{0, 1}, {15 * time.Minute, 0}, {6 * time.Minute, 1}} {
		w.clock.advance(poll.after)
		if n := w.counted(func() { w.fetch(w.request(pod, k8s(oneObject))) })["/auth"]; n != poll.logins {
			t.Errorf("%s later: %d logins, want %d", poll.after, n, poll.logins)
		}
	}
}

// noLoginAgain: a 401 that a new token does not resolve is final, and so is one for a token that is
// new.
func noLoginAgain(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s(oneObject))
	w.Disturb(akeylessd.Disturbance{Path: "/get-secret-value", Status: 401, Body: `{"error":"Unauthorized"}`})
	w.wantCounts(w.counted(func() { w.refuse(r, "401", "Unauthorized") }), map[string]int{"/get-secret-value": 1, "/auth": 1})
	w.clock.advance(time.Minute)
	w.wantCounts(w.counted(func() { w.refuse(r, "401") }), map[string]int{"/get-secret-value": 2, "/auth": 1})
}

func denied(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	w.PutStatic("/app/b", "value")
	const objects = `
- {secretPath: /app/a, fileName: a}
- {secretPath: /app/b, fileName: b}`
	var err error
	got := w.counted(func() {
		err = w.refuse(w.request(w.pod("intruder"), k8s(objects)), `spec.parameters.objects[0] "a"`, `objects[1] "b"`, "/app/b is denied", k8sID, "must allow read")
	})
	if fault.Of(err) != fault.Denied || got["/auth"] != 1 {
		t.Errorf("reason %s, requests %v", fault.Of(err), got)
	}
	// A denied login is one error, not one for each object.
	r := w.request(w.pod("web"), with(k8s(objects), "akeylessK8sAuthConfigName", "wrong"))
	got = w.counted(func() { err = w.refuse(r, "k8s auth config not found", `"wrong"`, "shop/web", `audience "akeyless"`) })
	w.wantCounts(got, map[string]int{"/auth": 1})
	if n := strings.Count(err.Error(), "logging in"); n != 1 {
		t.Errorf("the error tells of the login %d times: %v", n, err)
	}
}

func missingToken(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s(oneObject))
	good := r.Tokens
	r.Tokens = identity.Tokens{"vault": good[audience]}
	testkit.Fails(t, w.refuse(r, `"akeyless"`, "tokenRequests"), fault.NoToken)
	r.Tokens = good
	w.fetch(r)
	// A volume that is logged in needs no service account token for a while.
	r.Tokens, r.Fresh = nil, true
	wantFile(t, w.fetch(r), "a", "value")
}

// ids are those that the requests had.
type ids struct {
	mu   sync.Mutex
	sent []string
}

// wrap records them, and gives each answer an id of the server's own.
func (i *ids) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.sent = append(i.sent, r.Header.Get("X-Correlation-ID"))
		i.mu.Unlock()
		own := "req-of" + r.URL.Path
		if r.URL.Path == "/auth" {
			own = "not\tan id" // it is left out
		}
		w.Header().Set("X-Request-Id", own)
		next.ServeHTTP(w, r)
	})
}

// take returns those since the last time, each once.
func (i *ids) take() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	sent := slices.Compact(i.sent)
	i.sent = nil
	return sent
}

// trail: every request has the id of the work that it is made for, which records it, the server's
// own id, and the login.
func trail(t *testing.T, o Options) {
	seen, wrap := &ids{}, o.Wrap
	o.Wrap = func(h http.Handler) http.Handler {
		if wrap != nil {
			h = wrap(h)
		}
		return seen.wrap(h)
	}
	w := newWorld(t, o, func(c *akeyless.Config) { c.ShareByServiceAccount = true })
	w.PutStatic("/app/a", "value")
	fetch := func(account string) (*provider.Trail, error) {
		tr := &provider.Trail{}
		_, err := w.provider.Fetch(provider.WithTrail(t.Context(), tr), w.request(w.pod(account), k8s(oneObject)))
		return tr, err
	}
	first := testkit.Value(fetch("web"))(t)
	sent := seen.take()
	if len(sent) != 1 || sent[0] == "" || !slices.Equal(first.IDs(), []string{sent[0], "req-of/get-secret-value"}) {
		t.Errorf("the server saw %q, the trail has %q", sent, first.IDs())
	}
	logins := first.Accesses()
	if len(logins) != 1 || logins[0].Operation != provider.AccessLogin || logins[0].Err != nil || logins[0].Mount != "k8s" || logins[0].Role != k8sID ||
		logins[0].Asked != sent[0] || logins[0].Address != w.URL() || logins[0].Took <= 0 {
		t.Errorf("the logins are %+v", logins)
	}
	// Another pod's volume has the answer of the first one's request.
	second := testkit.Value(fetch("web"))(t)
	if n := len(seen.take()); n != 0 || !slices.Equal(second.IDs(), sent) || len(second.Accesses()) != 0 {
		t.Errorf("%d requests for the second pod, whose trail has %q and %+v", n, second.IDs(), second.Accesses())
	}
	refused, err := fetch("intruder")
	if err == nil {
		t.Fatal("the intruder was given it")
	}
	if a := refused.Accesses(); len(a) != 1 || a[0].Err != nil && fault.Of(a[0].Err) != fault.Denied {
		t.Errorf("the intruder's login is %+v", a)
	}
}
