package suite

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	first, err := fetch("web")
	testkit.Must(t, err)
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
	second, err := fetch("web")
	testkit.Must(t, err)
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
