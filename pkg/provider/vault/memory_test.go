package vault_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func large(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/kv1/") {
			_, _ = io.WriteString(w, body)
		}
	}
}

func manyObjects(n int) map[string]string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "- {objectName: f%d, secretPath: kv1/%d, secretKey: k}\n", i, i)
	}
	return map[string]string{"objects": b.String()}
}

// TestAnswersAreBounded reads more than fits the memory at once: it is read one
// after another, and no more is kept than the files take.
func TestAnswersAreBounded(t *testing.T) {
	b := newBroken(t, large(`{"data":{"k":"v","junk":"`+strings.Repeat("x", 1<<20)+`"}}`))
	for name, c := range map[string]struct {
		volume int64
		want   fault.Reason
	}{
		"one after another": {3 << 20, ""},
		"never":             {1 << 19, fault.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			room := budget.New(budget.Limits{Volume: c.volume, Node: 64 << 20})
			p := newProvider(t, func(cfg *vault.Config) { cfg.Budget = room })
			payload, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, manyObjects(16)))
			switch {
			case c.want != "" && fault.Of(err) != c.want, c.want == "" && err != nil:
				t.Fatalf("%v, want %q", err, c.want)
			case c.want == "" && len(payload.Files) != 16:
				t.Errorf("%d files", len(payload.Files))
			}
			if kept := room.Usage().Total; kept > 64<<10 {
				t.Errorf("%d bytes are kept for 16 values of one byte", kept)
			}
			testkit.Must(t, p.Release(t.Context(), "v"))
			testkit.Equal(t, "bytes are charged for no volume", room.Usage().Total, 0)
		})
	}
}

// TestClassesTakeOtherKeys: what was kept for one class is no answer for
// another that takes other keys of the same large secret.
func TestClassesTakeOtherKeys(t *testing.T) {
	b := newBroken(t, large(`{"data":{"a":"1","b":{"c":[{"d":"<2>"}]},"junk":"`+strings.Repeat("x", 1<<16)+`"}}`))
	p := newProvider(t, nil)
	objects := func(key string) map[string]string {
		return map[string]string{"objects": "- {objectName: f, secretPath: kv1/x, secretKey: " + key + "}"}
	}
	wantFile(t, mustFetch(t, p, brokenRequest("v1", b.URL, objects("a"))), "f", "1")
	wantFile(t, mustFetch(t, p, brokenRequest("v2", b.URL, objects("b.c.0.d"))), "f", "<2>")
	wantFile(t, mustFetch(t, p, brokenRequest("v3", b.URL, objects("b"))), "f", `{"c":[{"d":"<2>"}]}`)
	next := newProvider(t, nil)
	testkit.Must(t, next.Import("v3", p.Export("v3")))
	wantFile(t, mustFetch(t, next, brokenRequest("v3", b.URL, objects("b"))), "f", `{"c":[{"d":"<2>"}]}`)
	testkit.Failure(p.Fetch(t.Context(), brokenRequest("v4", b.URL, objects("none"))))(t, fault.NotFound, `it has "a", "b", "junk"`)
}

// TestRefusalsLeaveNoCharge: what is asked to explain a refusal, or to be certain
// of it, is not kept.
func TestRefusalsLeaveNoCharge(t *testing.T) {
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/sys/internal/ui/mounts/") {
			_, _ = io.WriteString(w, `{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}`)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/lookup-self") {
			_, _ = io.WriteString(w, `{"request_id":"1","data":{"id":"t"}}`)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/revoke-self") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		answering(http.StatusForbidden, `{"errors":["permission denied"]}`)(w, r)
	})
	room := budget.New(budget.Limits{Node: 64 << 20})
	p := newProvider(t, func(cfg *vault.Config) { cfg.Budget = room })
	objects := map[string]string{"objects": "- {objectName: a, secretPath: secret/app, secretKey: k}"}
	if _, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, objects)); err == nil || !strings.Contains(err.Error(), `secretPath must be "secret/data/app"`) {
		t.Fatalf("want the path that works, got %v", err)
	}
	for range 2 {
		if _, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, objects)); err == nil {
			t.Fatal("no error")
		}
	}
	testkit.Equal(t, "looks at what is mounted for one path", b.count("sys/internal/ui/mounts/secret/app"), 1)
	live := brokenRequest("live", b.URL, objects)
	live.Current = []provider.Version{{ID: "a", Version: "1"}}
	if _, err := p.Fetch(t.Context(), live); err == nil || b.count("lookup-self") == 0 {
		t.Fatalf("want a denial after a look at the token, got %v", err)
	}
	for _, id := range []string{"v", "live"} {
		testkit.Must(t, p.Release(t.Context(), id))
	}
	testkit.Equal(t, "bytes are charged for no volume", room.Usage().Total, 0)
}
