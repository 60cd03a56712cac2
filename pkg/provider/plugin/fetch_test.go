package plugin_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/provider/providertest"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/tracetest"
)

func TestFetch(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	p := w.good(w.request())
	type file struct {
		path string
		mode fs.FileMode
		text string
	}
	var files []file
	for _, f := range p.Files {
		files = append(files, file{f.Path, f.Mode, string(f.Contents.Reveal())})
	}
	testkit.Equal(t, "files", files, []file{{"db-password", 0o644, "s3cr3t-db"}, {"nested/api-key", 0o400, "s3cr3t-api"}})
	testkit.Equal(t, "versions", p.Versions, []provider.Version{{ID: "api", Version: "1"}, {ID: "db", Version: "1"}})
	if !p.RefreshAt.IsZero() || p.Leases != nil {
		t.Errorf("the protocol has no word on timing: RefreshAt %v, leases %v", p.RefreshAt, p.Leases)
	}
}

// A call has the id of the work that it is made for, and the work knows it.
func TestCorrelationOnTheWire(t *testing.T) {
	log := &testkit.Log{}
	w := newWorld(t, plugin.Config{Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	w.good(w.request())
	testkit.Equal(t, "correlation ids of a call without a trail", len(w.server.Header("x-correlation-id")), 0)
	trail := &provider.Trail{}
	testkit.Value(w.get("aws").Fetch(provider.WithTrail(t.Context(), trail), w.request()))(t)
	ids := w.server.Header("x-correlation-id")
	if !slices.Equal(ids, trail.IDs()) || len(ids) != 1 || len(ids[0]) != 32 {
		t.Errorf("the provider saw the ids %q, the trail has %q", ids, trail.IDs())
	}
	if log.Count("correlation="+ids[0]) != 1 {
		t.Errorf("the driver's log does not have the id %q once:\n%s", ids[0], log)
	}
}

func TestRequestOnTheWire(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request("csi.storage.k8s.io/pod.name", "forged", "csi.storage.k8s.io/serviceAccount.tokens", "forged", "region", "eu-1 <&> \"x\"")
	r.Tokens = tokensOf(t, "shop/web", "sts.amazonaws.com", "pods.eks.amazonaws.com")
	r.Secrets = secretsOf("clientid", "id-1", "clientsecret", "a\nb")
	r.Current = []provider.Version{{ID: "db", Version: "1"}}
	r.TokensInSecrets = true
	w.good(r)

	got := w.server.Requests()[0]
	tokens := r.Tokens.Encode().Reveal()
	attributes := map[string]string{
		"objects": twoObjects, "audience": "sts.amazonaws.com", "region": "eu-1 <&> \"x\"",
		"secretProviderClass":                    "web-secrets",
		"csi.storage.k8s.io/pod.name":            "web-1",
		"csi.storage.k8s.io/pod.namespace":       "shop",
		"csi.storage.k8s.io/pod.uid":             "8d7c0a52-6d2e-4a6f-9a37-000000000001",
		"csi.storage.k8s.io/serviceAccount.name": "web",
		"csi.storage.k8s.io/ephemeral":           "true",
		identity.TokensKey:                       tokens,
	}
	wantJSON(t, "attributes", got.GetAttributes(), attributes)
	wantJSON(t, "secrets", got.GetSecrets(), map[string]string{"clientid": "id-1", "clientsecret": "a\nb", identity.TokensKey: tokens})
	r.TokensInSecrets = false
	w.good(r)
	got = w.server.Requests()[1]
	wantJSON(t, "attributes", got.GetAttributes(), attributes)
	wantJSON(t, "secrets", got.GetSecrets(), map[string]string{"clientid": "id-1", "clientsecret": "a\nb"})
	if got.GetTargetPath() != r.TargetPath || got.GetPermission() != "420" {
		t.Errorf("target_path %q, permission %q", got.GetTargetPath(), got.GetPermission())
	}
	if v := got.GetCurrentObjectVersion(); len(v) != 1 || v[0].GetId() != "db" || v[0].GetVersion() != "1" {
		t.Errorf("current_object_version %v", v)
	}
	testkit.Equal(t, "the authority of each call", w.server.Header(":authority"), []string{"localhost", "localhost"})
	// Kubelet's own form of the tokens, for readers that parse it strictly.
	var parsed map[string]struct{ Token, ExpirationTimestamp string }
	if err := json.Unmarshal([]byte(tokens), &parsed); err != nil || parsed["sts.amazonaws.com"].ExpirationTimestamp != "2099-01-01T00:00:00Z" {
		t.Errorf("tokens %v, %v", parsed, err)
	}
}

func wantJSON(t *testing.T, what, text string, want map[string]string) {
	t.Helper()
	var got map[string]string
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%s are no JSON object of strings: %v", what, err)
	}
	testkit.Equal(t, what, got, want)
}

func TestNothingToSend(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request()
	r.Tokens = nil
	w.bad(r, fault.Unverified, "Unauthenticated", "spec.tokenRequests")
	m := w.server.Requests()[0]
	testkit.Equal(t, "secrets", m.GetSecrets(), "null")
	var attributes map[string]string
	testkit.Must(t, json.Unmarshal([]byte(m.GetAttributes()), &attributes))
	if text, ok := attributes[identity.TokensKey]; ok {
		t.Errorf("there are no tokens, and the attributes have %q", text)
	}
	r.TargetPath = ""
	w.bad(r, fault.Internal, "target path")
	testkit.Equal(t, "requests, with none that lacks a target path", len(w.server.Requests()), 1)
}

func TestTokensFromSecrets(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request("tokensFrom", "secrets")
	r.TokensInSecrets = true
	w.good(r)
	r.TokensInSecrets = false
	w.bad(r, fault.Unverified, "Unauthenticated")
}

func TestFreshNamesNoVersions(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request()
	r.Current, r.Fresh = w.good(r).Versions, true
	w.good(r)
	testkit.Equal(t, "versions in a fresh read: with them the provider may spare itself the read", len(w.server.Requests()[1].GetCurrentObjectVersion()), 0)
}

// Equal versions do not matter: the contents count.
func TestSameVersionOtherContents(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request("answer", "sameVersion")
	a := w.good(r)
	w.store.Set("db", "s3cr3t-new")
	r.Current = a.Versions
	b := w.good(r)
	if !slices.Equal(a.Versions, b.Versions) {
		t.Fatalf("versions %v, then %v", a.Versions, b.Versions)
	}
	testkit.Equal(t, "the new contents", string(b.Files[0].Contents.Reveal()), "s3cr3t-new")
}

func TestVersionsOfOneObjectInTwoFiles(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	p := w.good(w.request("answer", "doubleID"))
	testkit.Equal(t, "versions, each once", p.Versions, []provider.Version{{ID: "api", Version: "1"}, {ID: "db", Version: "1"}})
}

func TestHoldsNothing(t *testing.T) {
	p := newWorld(t, plugin.Config{}).get("aws")
	if _, ok := p.(provider.Releaser); ok {
		t.Error("the protocol has no release")
	}
	if _, ok := p.(provider.Persister); ok {
		t.Error("there is nothing to keep")
	}
}

// TestTrace: a call is a span, of which the plugin is told.
func TestTrace(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	var ended []trace.Ended
	tracer := tracetest.New(&ended, true)
	ctx, span := tracer.Begin(provider.WithTrail(t.Context(), &provider.Trail{}), "publish", trace.Work{})
	testkit.Value(w.get("aws").Fetch(ctx, w.request()))(t)
	span.End(nil)
	call := ended[0]
	want := "00-" + span.ID() + "-" + call.Context.SpanID().String() + "-01"
	if ids := w.server.Header("x-correlation-id"); len(ids) != 1 || call.Exchange.Correlation != ids[0] {
		t.Errorf("the plugin was given the ids %q, the span has %q", ids, call.Exchange.Correlation)
	}
	if got := w.server.Header("traceparent"); call.Name != "plugin" || len(got) != 1 || got[0] != want {
		t.Errorf("span %s, traceparent %q, want %q", call.Name, got, want)
	}
}

func TestConformance(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	changes := 0
	request := func(t *testing.T, volume, account, objects string) provider.Request {
		t.Helper()
		r := w.request("objects", objects)
		r.Volume, r.Pod.Name, r.Pod.ServiceAccount = volume, "pod-"+volume, account
		r.Tokens = tokensOf(t, "shop/"+account, "sts.amazonaws.com")
		return r
	}
	providertest.Run(t, providertest.Harness{
		Provider: w.get("aws"),
		Allowed: func(t *testing.T, volume string) provider.Request {
			return request(t, volume, "web", twoObjects)
		},
		Hearsay: true,
		Denied: func(t *testing.T, volume string) provider.Request {
			return request(t, volume, "stranger", twoObjects)
		},
		Partial: func(t *testing.T, volume string) provider.Request {
			return request(t, volume, "web", twoObjects+"- {objectName: missing}\n")
		},
		Change: func(*testing.T) {
			changes++
			w.store.Set("db", fmt.Sprintf("s3cr3t-db-%d", changes))
		},
		Hang: func(*testing.T) <-chan struct{} { return w.server.Freeze() },
		Secrets: func() []string {
			return []string{"s3cr3t", jwt("shop/web", "sts.amazonaws.com"), jwt("shop/stranger", "sts.amazonaws.com")}
		},
	})
}
