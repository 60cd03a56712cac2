package suite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
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
	out, err := tryPost(http.DefaultClient, url, body)
	testkit.Must(t, err)
	return out
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
	t.Run("another service account of the same class", func(t *testing.T) {
		w := newWorld(t, o, func(c *akeyless.Config) { c.ShareByServiceAccount = true })
		w.PutStatic("/app/a", "value")
		w.fetch(w.request(w.pod("web"), k8s(oneObject)))
		if err := w.refuse(w.request(w.pod("intruder"), k8s(oneObject)), "/app/a is denied"); fault.Of(err) != fault.Denied {
			t.Errorf("reason %s", fault.Of(err))
		}
	})
	t.Run("a role that goes by the pod", func(t *testing.T) {
		w := newWorld(t, o, nil)
		w.Forbid()
		first := w.pod("web")
		w.Allow(akeylessd.Rule{AccessID: k8sID, Prefix: "/app/", Claims: map[string]string{"pod_name": first.Pod}})
		w.PutStatic("/app/a", "value")
		w.fetch(w.request(first, k8s(oneObject)))
		w.refuse(w.request(w.pod("web"), k8s(oneObject)), "/app/a is denied")
	})
}

func sessionRenewal(t *testing.T, o Options) {
	for name, c := range map[string]struct {
		method akeylessd.Method
		still  time.Duration // a login does for so long
		over   time.Duration // and is renewed before its end here
	}{
		"expiry told": {akeylessd.Method{Type: "k8s", ConfigName: config, Audience: audience, Life: 30 * time.Minute}, 15 * time.Minute, 21 * time.Minute},
		"silent":      {akeylessd.Method{Type: "k8s", ConfigName: config, Audience: audience, Silent: true}, 8 * time.Minute, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, o, nil)
			w.AuthMethod(k8sID, c.method)
			w.PutStatic("/app/a", "value")
			pod := w.pod("web")
			poll := func(after time.Duration) int {
				w.clock.advance(after)
				return w.counted(func() { w.fetch(w.request(pod, k8s(oneObject))) })["/auth"]
			}
			if n := poll(0); n != 1 {
				t.Errorf("%d logins at first", n)
			}
			if n := poll(c.still); n != 0 {
				t.Errorf("%d logins while the token is young", n)
			}
			if n := poll(c.over - c.still); n != 1 {
				t.Errorf("%d logins when the token is due", n)
			}
		})
	}
}

// revokedToken: a 401 for an old token leads to one new login.
func revokedToken(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s(oneObject))
	w.fetch(r)
	w.clock.advance(3 * time.Minute)
	w.Revoke()
	r.Fresh = true
	w.wantCounts(w.counted(func() { w.fetch(r) }), map[string]int{"/get-secret-value": 2, "/auth": 1})
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
	if err := w.refuse(r, `"akeyless"`, "tokenRequests"); fault.Of(err) != fault.NoToken {
		t.Errorf("reason %s", fault.Of(err))
	}
	r.Tokens = good
	w.fetch(r)
	// A volume that is logged in needs no service account token for a while.
	r.Tokens, r.Fresh = nil, true
	wantFile(t, w.fetch(r), "a", "value")
}

// restart: a new process goes on without a request.
func restart(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s(oneObject))
	p := w.fetch(r)
	state := w.provider.Export(r.Volume)
	w.provider = w.newProvider()
	testkit.Must(t, w.provider.Import(r.Volume, state))
	var again *provider.Payload
	w.wantCounts(w.counted(func() { again = w.fetch(r) }), nil)
	wantFile(t, again, "a", "value")
	if again.Versions[0] != p.Versions[0] {
		t.Errorf("versions %v, then %v", p.Versions, again.Versions)
	}
	w.clock.advance(3 * time.Minute)
	if n := w.counted(func() { w.fetch(r) })["/auth"]; n != 0 {
		t.Errorf("%d logins after the restart", n)
	}
}
