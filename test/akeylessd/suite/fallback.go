package suite

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// gateway is an address of the double that can be away.
type gateway struct {
	*httptest.Server
	away atomic.Bool
	// asked counts the requests, and reviewers those logins that name this gateway as the one which
	// reviews the pod's token.
	asked, reviewers atomic.Int64
}

func newGateway(t *testing.T, to string) *gateway {
	t.Helper()
	target, err := url.Parse(to)
	testkit.Must(t, err)
	g := &gateway{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.asked.Add(1)
		if g.away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"gateway-url":"`+g.URL+`"`) {
			g.reviewers.Add(1)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
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
	before := second.asked.Load()
	w.refuse(w.request(w.pod("stranger"), params()), "denied")
	if second.asked.Load() != before {
		t.Error("a denial of the first gateway was asked of the second")
	}
	first.away.Store(true)
	second.away.Store(true)
	w.refuse(w.request(w.pod("web"), params()), first.URL, second.URL)
}
