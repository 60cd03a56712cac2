package suite

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// gatewayCache: an answer from the gateway's cache never counts as the version that was just
// described.
func gatewayCache(t *testing.T, o Options) {
	o.cache = time.Hour
	for _, objects := range []string{
		`[{secretPath: /app/a, fileName: a, secretType: static}]`,
		`[{secretPath: /app/a, fileName: a}]`,
	} {
		w := newWorld(t, o, nil)
		w.PutStatic("/app/a", "one")
		r := w.request(w.pod("web"), k8s(objects))
		wantFile(t, w.fetch(r), "a", "one")
		w.clock.advance(3 * time.Minute)
		wantFile(t, w.fetch(r), "a", "one")
		w.PutStatic("/app/a", "two")
		w.clock.advance(3 * time.Minute)
		wantFile(t, w.fetch(r), "a", "two")
		// Nor is it by a pod that comes when the cache still has the old one.
		wantFile(t, w.fetch(w.request(w.pod("web"), k8s(objects))), "a", "two")
	}
}

// withoutLogin removes the auth config of a logged in pod.
func (w *world) withoutLogin() {
	w.Revoke()
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: "renamed", Audience: audience})
}

// loginNotFound: a login without its auth config says nothing about the items, so an optional one
// does not vanish from a running pod.
func loginNotFound(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "there")
	r := w.request(w.pod("web"), k8s(`[{secretPath: /app/a, fileName: a, secretType: static, optional: true}]`))
	wantFile(t, w.fetch(r), "a", "there")
	w.withoutLogin()
	w.clock.advance(3 * time.Minute)
	if err := w.refuse(r, "logging in", "auth config"); fault.Of(err) != fault.Rejected {
		t.Errorf("reason %s: %v", fault.Of(err), err)
	}
}

// releaseWithoutLogin: a credential that cannot be revoked without a login is reported.
func releaseWithoutLogin(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	w.fetch(r)
	w.withoutLogin()
	w.release(r)
	w.wantCredentials(1, 1)
	if text := w.logs.text(); !strings.Contains(text, "lives out its time") {
		t.Errorf("nothing was logged of it: %s", text)
	}
}

// slowMint delays the answers of requests that issue credentials, which take effect, until the test
// releases them.
func slowMint(o Options) (slow Options, made chan struct{}, answer chan struct{}) {
	made, answer = make(chan struct{}, 10), make(chan struct{})
	before := o.Wrap
	o.Wrap = func(next http.Handler) http.Handler {
		if before != nil {
			next = before(next)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/get-dynamic-secret-value" {
				next.ServeHTTP(w, r)
				return
			}
			had := httptest.NewRecorder()
			next.ServeHTTP(had, r)
			made <- struct{}{}
			<-answer
			w.Header().Set("Content-Type", had.Header().Get("Content-Type"))
			w.WriteHeader(had.Code)
			_, _ = w.Write(had.Body.Bytes())
		})
	}
	return o, made, answer
}

// releaseDuringIssue: the pod goes while its credential is being issued.
func releaseDuringIssue(t *testing.T, o Options) {
	slow, made, answer := slowMint(o)
	w := newWorld(t, slow, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	fetched := make(chan error, 1)
	go func() { _, err := w.provider.Fetch(t.Context(), r); fetched <- err }()
	<-made
	released := make(chan error, 1)
	go func() { released <- w.provider.Release(t.Context(), r.Volume) }()
	close(answer)
	<-fetched
	if err := <-released; err != nil {
		t.Errorf("Release: %v", err)
	}
	w.wantCredentials(1, 0)
}

// releaseBeforeMade: a slow producer delays neither the fetch that is canceled nor the release, and
// its credential is revoked all the same: by the next attempt, or with the next volume of the same
// id.
func releaseBeforeMade(t *testing.T, o Options) {
	for name, next := range map[string]func(w *world, r provider.Request){
		"tried again":     func(w *world, r provider.Request) { w.release(r) },
		"published again": func(w *world, r provider.Request) { w.fetch(r); w.release(r) },
	} {
		t.Run(name, func(t *testing.T) {
			slow, made, answer := slowMint(o)
			w := newWorld(t, slow, func(c *akeyless.Config) { c.ReleaseTimeout = time.Second })
			w.PutDynamic("/app/db", time.Hour)
			r := w.request(w.pod("web"), k8s(dynamicObjects))
			ctx, cancel := context.WithCancel(t.Context())
			fetched := make(chan error, 1)
			go func() { _, err := w.provider.Fetch(ctx, r); fetched <- err }()
			<-made
			cancel()
			if err := <-fetched; fault.Of(err) != fault.Canceled {
				t.Errorf("Fetch: %v", err)
			}
			if err := w.provider.Release(t.Context(), r.Volume); fault.Of(err) != fault.Timeout {
				t.Errorf("Release: %v", err)
			}
			close(answer)
			next(w, r)
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
				if _, alive := w.Credentials(); alive == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("what the producer made lives on")
				}
			}
		})
	}
}

// callerGoneAtIssue: the caller goes while the credential is being issued; the next one gets it.
func callerGoneAtIssue(t *testing.T, o Options) {
	slow, made, answer := slowMint(o)
	w := newWorld(t, slow, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(dynamicObjects))
	ctx, cancel := context.WithCancel(t.Context())
	fetched := make(chan error, 1)
	go func() { _, err := w.provider.Fetch(ctx, r); fetched <- err }()
	<-made
	cancel()
	close(answer)
	<-fetched
	w.fetch(r)
	w.wantCredentials(1, 1)
	w.release(r)
	w.wantCredentials(1, 0)
}

// anyJSON: producers that people write themselves may answer with a bare text.
func anyJSON(t *testing.T, o Options) {
	o.Wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/get-dynamic-secret-value" {
				next.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(httptest.NewRecorder(), r)
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode("just a text")
		})
	}
	w := newWorld(t, o, nil)
	w.PutDynamic("/app/db", time.Hour)
	r := w.request(w.pod("web"), k8s(`[{secretPath: /app/db, fileName: a, secretType: dynamic}]`))
	for range 3 {
		wantFile(t, w.fetch(r), "a", "just a text")
	}
	w.wantCredentials(1, 1)
}

const staticAndDynamic = `
- {secretPath: /app/a, fileName: a, secretType: static}
- {secretPath: /app/db, fileName: user, secretKey: user, secretType: dynamic}`

// oneFailureOfSeveral: an item that fails does not keep a new credential from the file in which the
// old one expires.
func oneFailureOfSeveral(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	w.PutDynamic("/app/db", time.Hour)
	pod := w.pod("web")
	first := w.fetch(w.request(pod, k8s(staticAndDynamic)))
	w.Delete("/app/a")
	w.clock.advance(45 * time.Minute)
	live := func(held *provider.Payload) provider.Request {
		r := w.request(pod, k8s(staticAndDynamic))
		r.Current = held.Versions
		return r
	}
	p := w.fetch(live(first))
	if fault.Of(p.Partial) != fault.NotFound || p.Partial == nil {
		t.Errorf("Partial is %v", p.Partial)
	}
	wantFile(t, p, "a", "value")
	if files(p)["user"] == files(first)["user"] {
		t.Error("the credential was not replaced in time")
	}
	if now := w.clock.now(); !p.RefreshAt.After(now) || p.RefreshAt.After(now.Add(time.Hour)) {
		t.Errorf("the next look is in %v", p.RefreshAt.Sub(now))
	}
	// The other way round, the credential that could not be replaced stays.
	w.PutStatic("/app/a", "other")
	w.Disturb(akeylessd.Disturbance{Path: "/get-dynamic-secret-value", Status: http.StatusInternalServerError, Body: `{"error":"the database is away"}`})
	w.clock.advance(45 * time.Minute)
	again := w.fetch(live(p))
	wantFile(t, again, "a", "other")
	wantFile(t, again, "user", files(p)["user"])
	if left := 15 * time.Minute; again.Partial == nil || again.RefreshAt.After(w.clock.now().Add(left)) {
		t.Errorf("Partial is %v and the next look in %v, but the credential ends in %v", again.Partial, again.RefreshAt.Sub(w.clock.now()), left)
	}
	w.Heal()
	// A pod without a payload gets nothing partial.
	w.Delete("/app/a")
	w.refuse(w.request(w.pod("web"), k8s(staticAndDynamic)), "/app/a was not found")
}

// refusedIsForgotten: an item that the store has refused is not served from memory, to a new pod or
// after a restart.
func refusedIsForgotten(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	w.PutStatic("/app/b", "value")
	shared := func(r provider.Request) provider.Request {
		with(r.Class.Parameters, "sessionSharing", "serviceAccount")
		return r
	}
	r := shared(w.request(w.pod("web"), k8s(oneObject)))
	w.fetch(r)
	w.Forbid()
	r.Fresh = true
	if err := w.refuse(r, "denied"); fault.Of(err) != fault.Denied {
		t.Fatalf("reason %s: %v", fault.Of(err), err)
	}
	next := shared(w.request(w.pod("web"), k8s(oneObject)))
	w.refuse(next, "denied")
	if p, _, ok := w.provider.Recall(next, w.clock.now().Add(-time.Hour)); ok {
		t.Errorf("recalled %v", files(p))
	}
	restarted := *w
	restarted.provider = w.newProvider()
	testkit.Must(t, restarted.provider.Import(r.Volume, w.provider.Export(r.Volume)))
	r.Fresh = false
	restarted.refuse(r, "denied")
}

// refusedLogin: an identity that may no longer log in gets nothing from memory, whatever request
// showed that.
func refusedLogin(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	w.PutStatic("/app/b", "value")
	w.PutDynamic("/app/db", time.Hour)
	shared := func(objects string) provider.Request {
		r := w.request(w.pod("web"), with(k8s(objects), "sessionSharing", "serviceAccount"))
		r.Class.CredentialScope = class.ScopeServiceAccount
		return r
	}
	live := shared(dynamicObjects)
	p := w.fetch(live)
	live.Current = p.Versions
	w.fetch(shared(oneObject))
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: config, Audience: "another"})
	w.Revoke()
	w.clock.advance(10 * time.Second) // so that the refusal is put down to the token
	w.refuse(shared("[{secretPath: /app/b, fileName: b, secretType: static}]"), "logging in")
	for _, objects := range []string{oneObject, dynamicObjects} {
		next := shared(objects)
		if p, _, ok := w.provider.Recall(next, w.clock.now().Add(-time.Hour)); ok {
			t.Errorf("recalled %v", files(p))
		}
		w.refuse(next, "logging in")
	}
	// A running pod's credentials are renewed as long as it lives.
	if again := w.fetch(live); files(again)["user"] != files(p)["user"] {
		t.Error("a pod was given another credential than it has")
	}
}
