// Package suite tries the Akeyless provider through the wire, on the double of
// Akeyless' API. It is run by the provider's own tests and, with every request
// and answer checked against the published OpenAPI description, by the nested
// module openapi.
package suite

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// The access IDs of the double.
const (
	k8sID    = "p-kubernetes01"
	jwtID    = "p-jwt0000001"
	keyID    = "p-accesskey1"
	uidID    = "p-universal1"
	audience = "akeyless"
	config   = "cluster-a"

	accessKey = "marker-access-key-6b1f"
	uidToken  = "u-marker0uid0token0c3d4"
)

// Options change how the suite runs.
type Options struct {
	// Wrap sees every exchange with the double; may be nil.
	Wrap func(http.Handler) http.Handler

	latency time.Duration
	cache   time.Duration
}

// clock is a clock that tests move. It starts at the real time, because
// certificates and tokens are checked by others too.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// world is a double, an issuer of service account tokens, and a provider.
type world struct {
	*akeylessd.Server
	t        testing.TB
	issuer   *issuer.Issuer
	clock    *clock
	logs     *testkit.Log
	provider *akeyless.Provider
	config   akeyless.Config
	pods     *atomic.Int64
}

func newWorld(t testing.TB, o Options, adjust func(*akeyless.Config)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}, logs: &testkit.Log{}, pods: &atomic.Int64{}}
	w.issuer = testkit.Value(issuer.Start(t.Context(), issuer.Options{Now: w.clock.now}))(t)
	w.Server = testkit.Value(akeylessd.Start(t.Context(), akeylessd.Options{Now: w.clock.now, Issuer: w.issuer, Wrap: o.Wrap, Latency: o.latency, Cache: o.cache}))(t)
	t.Cleanup(func() {
		testkit.Check(t, w.Server.Close())
		testkit.Check(t, w.issuer.Close())
	})
	w.AuthMethod(k8sID, akeylessd.Method{Type: "k8s", ConfigName: config, Audience: audience})
	w.AuthMethod(jwtID, akeylessd.Method{Type: "jwt", Audience: audience})
	w.AuthMethod(keyID, akeylessd.Method{Type: "access_key", Key: accessKey})
	w.AuthMethod(uidID, akeylessd.Method{Type: "universal_identity", Key: uidToken})
	for _, id := range []string{k8sID, jwtID} {
		w.Allow(akeylessd.Rule{AccessID: id, Prefix: "/app/", Claims: map[string]string{"namespace": "shop", "service_account_name": "web"}})
	}
	w.Allow(akeylessd.Rule{AccessID: keyID, Prefix: "/app/"})
	w.Allow(akeylessd.Rule{AccessID: uidID, Prefix: "/app/"})
	w.config = akeyless.Config{DefaultGateway: w.URL(), IdentityKey: secret.NewBytes([]byte("0123456789abcdef0123456789abcdef"))}
	w.config.Settings = endpoint.Settings{
		RetryBase: time.Millisecond, MaxRetries: 2, RequestTimeout: 5 * time.Second,
		Now: w.clock.now, Jitter: func() float64 { return 0 },
		Logger: slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		// The tests' servers are on the loopback interface.
		AllowLocalAddresses: true,
	}
	if adjust != nil {
		adjust(&w.config)
	}
	w.provider = w.newProvider()
	return w
}

// newDynamic has a world with a dynamic secret, and a request for it.
func newDynamic(t testing.TB, o Options, adjust func(*akeyless.Config)) (*world, provider.Request) {
	t.Helper()
	w := newWorld(t, o, adjust)
	w.PutDynamic("/app/db", time.Hour)
	return w, w.request(w.pod("web"), k8s(dynamicObjects))
}

// in is the same world for a part of the test.
func (w *world) in(t testing.TB) *world {
	part := *w
	part.t = t
	return &part
}

// newProvider is another one, as after a restart.
func (w *world) newProvider() *akeyless.Provider {
	w.t.Helper()
	p := testkit.Value(akeyless.New(w.config))(w.t)
	w.t.Cleanup(p.Close)
	return p
}

// pod is a new pod of a service account of namespace shop.
func (w *world) pod(account string) issuer.PodRef {
	n := w.pods.Add(1)
	return issuer.PodRef{Namespace: "shop", Pod: fmt.Sprintf("pod-%d", n), PodUID: fmt.Sprintf("uid-of-pod-%d", n), ServiceAccount: account}
}

// k8s are the parameters of the access type k8s.
func k8s(objects string) map[string]string {
	return map[string]string{"akeylessAccessType": "k8s", "akeylessAccessID": k8sID, "akeylessK8sAuthConfigName": config, "objects": objects}
}

func with(params map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		params[more[i]] = more[i+1]
	}
	return params
}

// request is the request of a pod's volume.
func (w *world) request(pod issuer.PodRef, params map[string]string) provider.Request {
	w.t.Helper()
	tokens := testkit.Value(identity.ParseTokens(w.issuer.CSITokens(pod, audience)))(w.t)
	return provider.Request{
		Volume: "csi-" + pod.Pod,
		Pod:    identity.Pod{Namespace: pod.Namespace, Name: pod.Pod, UID: pod.PodUID, ServiceAccount: pod.ServiceAccount},
		Tokens: tokens,
		Class:  &class.Class{Ref: class.Ref{Namespace: pod.Namespace, Name: "app"}, Provider: akeyless.Name, Parameters: params},
	}
}

func (w *world) fetch(r provider.Request) *provider.Payload {
	w.t.Helper()
	p, err := w.provider.Fetch(w.t.Context(), r)
	if err != nil {
		w.t.Fatalf("Fetch: %v", err)
	}
	return p
}

// refuse requires an error with all of the words.
func (w *world) refuse(r provider.Request, words ...string) error {
	w.t.Helper()
	p, err := w.provider.Fetch(w.t.Context(), r)
	if err == nil || p != nil {
		w.t.Fatalf("Fetch gave %v, %v; want an error", p, err)
	}
	wantWords(w.t, err, words...)
	return err
}

// partial requires a whole payload, and an error with all of the words in it.
func (w *world) partial(r provider.Request, words ...string) error {
	w.t.Helper()
	p := w.fetch(r)
	if p.Partial == nil {
		w.t.Fatalf("Fetch gave %v as if nothing had failed", files(p))
	}
	wantWords(w.t, p.Partial, words...)
	return p.Partial
}

func wantWords(t testing.TB, err error, words ...string) {
	t.Helper()
	testkit.Says(t, err, words...)
}

func files(p *provider.Payload) map[string]string {
	m := map[string]string{}
	for _, f := range p.Files {
		m[f.Path] = string(f.Contents.Reveal())
	}
	return m
}

func wantFile(t testing.TB, p *provider.Payload, name, want string) {
	t.Helper()
	if got, ok := files(p)[name]; !ok || got != want {
		t.Errorf("file %s: got %q (there: %v), want %q", name, got, ok, want)
	}
}

// counted counts the requests to the double by path while fn runs.
func (w *world) counted(fn func()) map[string]int {
	w.t.Helper()
	before := w.Counts()
	fn()
	after := w.Counts()
	for path, n := range before {
		if after[path] -= n; after[path] == 0 {
			delete(after, path)
		}
	}
	return after
}

func (w *world) wantCounts(got, want map[string]int) {
	w.t.Helper()
	for path := range got {
		if got[path] != want[path] {
			w.t.Errorf("%d requests to %s, want %d (all: %v)", got[path], path, want[path], got)
		}
	}
	for path := range want {
		if got[path] == 0 && want[path] != 0 {
			w.t.Errorf("no request to %s, want %d (all: %v)", path, want[path], got)
		}
	}
}
