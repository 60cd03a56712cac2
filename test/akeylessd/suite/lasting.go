package suite

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
	if text := w.logs.String(); !strings.Contains(text, "lives out its time") {
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
			testkit.Eventually(t, "what the producer made is revoked", func() bool { _, alive := w.Credentials(); return alive == 0 })

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
