package suite

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func rateLimit(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	limit := akeylessd.Disturbance{Path: "/get-secret-value", Times: 1, Status: http.StatusTooManyRequests, Body: `{"error":"rate limit exceeded"}`}
	w.Disturb(limit)
	r := w.request(w.pod("web"), k8s(oneObject))
	w.wantCounts(w.counted(func() { w.fetch(r) }), map[string]int{"/auth": 1, "/get-secret-value": 2})
	// One that would last longer than a caller should wait is passed on.
	limit.RetryAfter = 30 * time.Second
	w.Disturb(limit)
	r.Fresh = true
	err := w.refuse(r, "rate limit exceeded", "429")
	if fault.Of(err) != fault.RateLimited || fault.RetryAfter(err) != 30*time.Second {
		t.Errorf("reason %s, RetryAfter %v", fault.Of(err), fault.RetryAfter(err))
	}
}

// issueNotRepeated: the driver does not repeat a request that may have issued a credential, and
// repeats one that was refused before the server processed it.
func issueNotRepeated(t *testing.T, o Options) {
	w, r := newDynamic(t, o, nil)
	w.Disturb(akeylessd.Disturbance{Path: "/get-dynamic-secret-value", Times: 1, Cut: true})
	got := w.counted(func() { w.refuse(r, "closed the connection") })
	if got["/get-dynamic-secret-value"] != 1 {
		t.Errorf("requests %v", got)
	}
	w.Disturb(akeylessd.Disturbance{Path: "/get-dynamic-secret-value", Times: 1, Status: 503, Body: `{"error":"starting"}`})
	got = w.counted(func() { w.fetch(r) })
	if got["/get-dynamic-secret-value"] != 2 {
		t.Errorf("requests %v", got)
	}
	w.Disturb(akeylessd.Disturbance{Path: "/get-dynamic-secret-value", Status: 500, Body: `{"error":"producer failed: connection refused"}`})
	w.refuse(w.request(w.pod("web"), k8s(dynamicObjects)), "producer failed", `"/app/db"`)
}

func garbage(t *testing.T, o Options) {
	w := newWorld(t, o, func(c *akeyless.Config) { c.MaxRetries, c.MaxResponseBytes = -1, 1<<16 })
	w.PutStatic("/app/a", "value")
	for name, c := range map[string]struct {
		d      akeylessd.Disturbance
		reason fault.Reason
		word   string
	}{
		"not JSON":         {akeylessd.Disturbance{Path: "/get-secret-value", Status: 200, Body: "<html>"}, fault.BadAnswer, "not Akeyless' JSON"},
		"empty":            {akeylessd.Disturbance{Path: "/get-secret-value", Status: 200}, fault.BadAnswer, "0 bytes"},
		"null":             {akeylessd.Disturbance{Path: "/get-secret-value", Status: 200, Body: "null"}, fault.NotFound, "does not hold it"},
		"null value":       {akeylessd.Disturbance{Path: "/get-secret-value", Status: 200, Body: `{"/app/a":null}`}, fault.BadAnswer, "no value"},
		"another name":     {akeylessd.Disturbance{Path: "/get-secret-value", Status: 200, Body: `{"/app/b":"x"}`}, fault.NotFound, "does not hold it"},
		"cut off":          {akeylessd.Disturbance{Path: "/get-secret-value", Cut: true}, fault.Unavailable, "closed the connection"},
		"too large":        {akeylessd.Disturbance{Path: "/get-secret-value", Status: 200, Body: strings.Repeat("x", 1<<17)}, fault.TooLarge, "larger than 65536"},
		"v1 base":          {akeylessd.Disturbance{Path: "/auth", Status: 404, Body: `404 page not found`}, fault.BadAnswer, "base of the v2 API"},
		"no token":         {akeylessd.Disturbance{Path: "/auth", Status: 200, Body: `{}`}, fault.BadAnswer, "no usable Akeyless token"},
		"token of control": {akeylessd.Disturbance{Path: "/auth", Status: 200, Body: `{"token":"a\nb"}`}, fault.BadAnswer, "no usable Akeyless token"},
		"browser":          {akeylessd.Disturbance{Path: "/auth", Status: 200, Body: `{"complete_auth_link":"https://x"}`}, fault.Denied, "browser"},
		"told nothing":     {akeylessd.Disturbance{Path: "/get-secret-value", Status: 400, Body: `{"error":{"deep":["why"]}}`}, fault.Rejected, "why"},
	} {
		t.Run(name, func(t *testing.T) {
			w.Heal()
			w.Disturb(c.d)
			w.clock.advance(2 * time.Second)
			_, err := w.provider.Fetch(t.Context(), w.request(w.pod("web"), k8s(oneObject)))
			if err == nil || fault.Of(err) != c.reason {
				t.Fatalf("reason %s, want %s: %v", fault.Of(err), c.reason, err)
			}
			wantWords(t, err, c.word)
			w.Heal()
			w.clock.advance(2 * time.Second)
			if _, err := w.provider.Fetch(t.Context(), w.request(w.pod("web"), k8s(oneObject))); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// redirect: the driver follows no redirect with a credential.
func redirect(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	elsewhere := newWorld(t, o, nil)
	w.Disturb(akeylessd.Disturbance{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {elsewhere.URL() + "/auth"}}})
	got := elsewhere.counted(func() { w.refuse(w.request(w.pod("web"), k8s(oneObject)), "307", "redirects are not followed") })
	elsewhere.wantCounts(got, nil)
}

// nothingSecret looks for markers in errors, logs and printed values.
func nothingSecret(t *testing.T, o Options) {
	w := newWorld(t, o, func(c *akeyless.Config) { c.MaxRetries = -1 })
	w.PutStatic("/app/a", "marker-value-55aa")
	w.PutDynamic("/app/db", time.Hour)
	pod := w.pod("web")
	r := w.request(pod, k8s(oneObject))
	jwt := r.Tokens[audience].JWT.Reveal()
	text := fmt.Sprintf("%v %+v", w.fetch(r), w.fetch(w.request(w.pod("web"), k8s(dynamicObjects))).Leases)
	for _, d := range []akeylessd.Disturbance{
		{Path: "/auth", Status: 401, Body: fmt.Sprintf(`{"error":"bad token %s or %s"}`, jwt, accessKey)},
		{Path: "/auth", Status: 500, Body: `{"error":"t-0123456789abcdef0123456789abcdef is over\nand out"}`},
		{Path: "/get-secret-value", Status: 200, Body: `{"/app/a": "marker-value-55aa"`},
		{Path: "/get-secret-value", Status: 400, Body: "marker-value-55aa"},
	} {
		w.Heal()
		w.Disturb(d)
		w.clock.advance(2 * time.Second)
		r := w.request(pod, k8s(oneObject))
		r.Volume += text[:1] + d.Path + d.Body[:4]
		if d.Path == "/auth" {
			r = w.request(w.pod("web"), map[string]string{"akeylessAccessID": keyID, "objects": oneObject})
			r.Secrets = map[string]secret.String{"akeylessAccessKey": secret.NewString(accessKey)}
			r.Tokens = w.request(pod, nil).Tokens
		}
		r.Fresh = true
		if d.Status == 401 {
			r.Tokens[audience] = w.requestToken(jwt, r)
		}
		_, err := w.provider.Fetch(t.Context(), r)
		if err == nil {
			t.Fatalf("no error for %+v", d)
		}
		text += fmt.Sprintf("\n%v %+v %#v", err, err, r)
		if strings.ContainsAny(err.Error(), "\r\t") {
			t.Errorf("the error holds control characters: %q", err)
		}
	}
	text += w.logs.String() + fmt.Sprintf("%v %+v", w.provider.Export(r.Volume), w.config)
	for _, marker := range []string{"marker-value", accessKey, jwt, "t-0123456789", `"token":"t-`} {
		if i := strings.Index(text, marker); i >= 0 {
			t.Errorf("%q shows: ...%s", marker, text[max(0, i-100):i])
		}
	}
}

// requestToken is the request's token, as another text.
func (w *world) requestToken(jwt string, r provider.Request) identity.Token {
	t := r.Tokens[audience]
	t.JWT = secret.NewString(jwt)
	return t
}

// foreignAnswers has a proxy answer for the gateway before a live volume, whose
// file may be missing: every such answer is an outage.
func foreignAnswers(t *testing.T, o Options) {
	w := newWorld(t, o, func(c *akeyless.Config) { c.MaxRetries = -1 })
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s("- {secretPath: /app/a, fileName: a, secretType: static, optional: true}"))
	r.Current = w.fetch(r).Versions
	r.Fresh = true
	for _, d := range []akeylessd.Disturbance{
		{Status: 404, Body: "default backend - 404"},
		{Status: 404, Body: `{"message":"no Route matched with those values"}`},
		{Status: 403, Body: "<html>blocked"},
		{Status: 401},
		{Status: 200, Body: `{"status":"maintenance"}`},
	} {
		w.Heal()
		d.Path = "/get-secret-value"
		w.Disturb(d)
		w.clock.advance(10 * time.Second)
		if p, err := w.provider.Fetch(t.Context(), r); err == nil || !fault.Of(err).Outage() {
			t.Errorf("%d %q: %v, %s: %v", d.Status, d.Body, p, fault.Of(err), err)
		}
	}
	w.Heal()
	w.clock.advance(10 * time.Second)
	if p := w.fetch(r); len(p.Files) != 1 {
		t.Errorf("afterwards %d files", len(p.Files))
	}
}

// denialRepeated refuses a live volume: that counts when it is repeated.
func denialRepeated(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	r := w.request(w.pod("web"), k8s(oneObject))
	r.Current = w.fetch(r).Versions
	r.Fresh = true
	w.Disturb(akeylessd.Disturbance{Path: "/get-secret-value", Status: 403, Body: `{"error":"Forbidden"}`})
	for _, want := range []fault.Reason{fault.Unverified, fault.Denied} {
		_, err := w.provider.Fetch(t.Context(), r)
		testkit.Fails(t, err, want)
		w.clock.advance(fault.RetryAfter(err))
	}
}

// gateway is an address of the double that can be away.
type gateway struct {
	*testkit.Proxy
	away atomic.Bool
	// reviewers counts the logins that name this gateway as the one which reviews the pod's token.
	reviewers atomic.Int64
}

func newGateway(t *testing.T, to string) *gateway {
	g := &gateway{Proxy: testkit.NewProxy(t, to)}
	g.Intercept(func(w http.ResponseWriter, r *http.Request, double http.Handler) {
		if g.away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"gateway-url":"`+g.URL+`"`) {
			g.reviewers.Add(1)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		double.ServeHTTP(w, r)
	})
	return g
}

// secondGateway reads through the second gateway while the first is away, and through the first when
// that is back.
func secondGateway(t *testing.T, o Options) {
	w := newWorld(t, o, func(c *akeyless.Config) { c.MaxRetries = -1 })
	w.PutStatic("/app/user", "one")
	first, second := newGateway(t, w.URL()), newGateway(t, w.URL())
	params := func() map[string]string {
		return with(k8s("[{secretPath: /app/user, fileName: user, secretType: static}]"), "akeylessGatewayURL", first.URL, "akeylessFallbackGatewayURL", second.URL)
	}
	r := w.request(w.pod("web"), params())
	first.away.Store(true)
	wantFile(t, w.fetch(r), "user", "one")
	if second.reviewers.Load() == 0 {
		t.Error("the login at the second gateway names another to review the pod's token")
	}
	if got := w.provider.AnsweredBy(r.Volume); got != second.URL {
		t.Errorf("answered by %q", got)
	}
	first.away.Store(false)
	w.PutStatic("/app/user", "two")
	r.Fresh = true
	wantFile(t, w.fetch(r), "user", "two")
	if got := w.provider.AnsweredBy(r.Volume); got != "" {
		t.Errorf("answered by %q after the first was back", got)
	}
	before := second.Requests("")
	w.refuse(w.request(w.pod("stranger"), params()), "denied")
	if second.Requests("") != before {
		t.Error("a denial of the first gateway was asked of the second")
	}
	first.away.Store(true)
	second.away.Store(true)
	w.refuse(w.request(w.pod("web"), params()), first.URL, second.URL)
}

// gatewayOverTLS: the class's TLS parameters decide whether the gateway is trusted. Nothing reaches
// an untrusted one.
func gatewayOverTLS(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.PutStatic("/app/a", "value")
	double := testkit.Value(url.Parse(w.URL()))(t)
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(double))
	t.Cleanup(front.Close)
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}))
	for name, c := range map[string]struct {
		more []string
		says string // empty where the gateway is believed
	}{
		"its authority":       {[]string{"akeylessCACert", authority}, ""},
		"and its name":        {[]string{"akeylessCACert", authority, "akeylessTLSServerName", "example.com"}, ""},
		"verification off":    {[]string{"akeylessSkipTLSVerify", "true"}, ""},
		"another authority":   {nil, "certificate"},
		"another server name": {[]string{"akeylessCACert", authority, "akeylessTLSServerName", "other.test"}, "other.test"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			params := with(k8s(oneObject), append(c.more, "akeylessGatewayURL", front.URL)...)
			r := w.request(w.pod("web"), params)
			if c.says == "" {
				wantFile(t, w.fetch(r), "a", "value")
				return
			}
			got := w.counted(func() {
				if err := w.refuse(r, c.says); fault.Of(err) == fault.Denied {
					t.Errorf("reason %s: %v", fault.Of(err), err)
				}
			})
			w.wantCounts(got, nil)
		})
	}
}

// wayOut: a volume with a credential always has a way to revoke it. With nothing due for hours, the
// provider takes kubelet's newer service account tokens in time, without a request.
func wayOut(t *testing.T, o Options) {
	w := newWorld(t, o, nil)
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: config, Audience: audience, Life: 10 * time.Minute})
	w.PutDynamic("/app/db", 100*time.Hour)
	pod := w.pod("web")
	p := w.fetch(w.request(pod, k8s(dynamicObjects)))
	for range 3 {
		wait := p.RefreshAt.Sub(w.clock.now())
		if wait < 30*time.Minute || wait >= time.Hour {
			t.Fatalf("the next look is in %v, and the service account token ends in an hour", wait)
		}
		w.clock.advance(wait)
		w.wantCounts(w.counted(func() { p = w.fetch(w.request(pod, k8s(dynamicObjects))) }), nil)
	}
	w.clock.advance(30 * time.Minute)
	w.release(w.request(pod, k8s(dynamicObjects)))
	w.wantCredentials(1, 0)
}
