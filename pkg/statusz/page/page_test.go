package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"golang.org/x/net/html"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// fixed are volumes that do not change.
type fixed struct {
	list     []volume.Status
	overview volume.Overview

	mu        sync.Mutex
	refreshed []string
	gate      chan struct{} // Statuses waits for it; nil for none
}

func (f *fixed) Statuses() []volume.Status {
	if f.gate != nil {
		<-f.gate
	}
	return append([]volume.Status{}, f.list...)
}

func (f *fixed) Overview() volume.Overview { return f.overview }

func (f *fixed) RefreshPod(namespace, name string) (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refreshed = append(f.refreshed, namespace+"/"+name)
	for _, v := range f.list {
		if v.Pod.Namespace == namespace && v.Pod.Name == name {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

func sourceOf(v *fixed) *Source {
	return &Source{
		Volumes: v, Failures: &Failures{}, Loopback: true,
		Node: func() statusz.Node {
			return statusz.Node{Name: "node-1", Driver: "driver", Version: "test", Volumes: len(v.list)}
		},
		Stores:  func() []statusz.Store { return nil },
		Plugins: func() []statusz.Plugin { return nil },
	}
}

func volumes(n int) *fixed {
	now := time.Now()
	f := &fixed{}
	for i := range n {
		f.list = append(f.list, volume.Status{
			Identity: volume.Identity{
				ID: fmt.Sprintf("csi-%05d", i), Class: class.Ref{Namespace: fmt.Sprintf("team-%d", i%30), Name: "db"},
				Pod: identity.Pod{Namespace: fmt.Sprintf("team-%d", i%30), Name: fmt.Sprintf("web-%d", i), UID: fmt.Sprint(i), ServiceAccount: "web"},
			},
			State: volume.Fresh, ClassVersion: "7", Store: "vault at https://vault:8200", NextAt: now.Add(time.Minute),
			Progress: volume.Progress{
				Provider: "vault", Versions: []provider.Version{{ID: "password", Version: "3"}, {ID: "user", Version: "3"}},
				PublishedAt: now.Add(-time.Hour), RefreshedAt: now.Add(-time.Minute), Ends: []time.Time{now.Add(time.Hour)}, EndsOf: []string{"password"},
			},
		})
	}
	return f
}

func ask(t testing.TB, h http.Handler, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:8096"+path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	all := testkit.Value(io.ReadAll(r.Body))(t)
	return string(all)
}

func TestStatusInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so that the rests between answers take no time
		h := Handler(sourceOf(volumes(1201)))
		seen := map[string]bool{}
		next, pages := "", 0
		for {
			r := ask(t, h, "GET", "/status?limit=500&continue="+next)
			var s statusz.Status
			if err := json.NewDecoder(r.Body).Decode(&s); err != nil || r.StatusCode != 200 {
				t.Fatal(r.StatusCode, err)
			}
			if s.APIVersion != statusz.APIVersion || s.Kind != statusz.Kind || s.Total != 1201 || (s.Node == nil) != (pages > 0) || s.Now.IsZero() {
				t.Errorf("page %d: %+v", pages, s)
			}
			for _, v := range s.Volumes {
				if seen[v.ID] {
					t.Errorf("%s is on two pages", v.ID)
				}
				seen[v.ID] = true
				if len(v.Objects) != 2 || v.Objects[0].ExpiresAt.IsZero() || !v.Objects[1].ExpiresAt.IsZero() || !v.ExpiresAt.Equal(v.Objects[0].ExpiresAt) {
					t.Errorf("%+v", v)
				}
			}
			if pages++; s.Continue == "" {
				break
			}
			next = s.Continue
		}
		if len(seen) != 1201 || pages != 3 {
			t.Errorf("%d volumes on %d pages", len(seen), pages)
		}
	})
}

// Data that a class's author can make large has pages.
func TestPagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := volumes(20)
		many := make([]provider.Version, 8192)
		for i := range many {
			many[i] = provider.Version{ID: fmt.Sprint(i) + strings.Repeat("x", 1000), Version: "1"}
		}
		for i := range f.list {
			f.list[i].Versions = many
		}
		h := Handler(sourceOf(f))
		for next, pages := "", 0; ; pages++ {
			text := body(t, ask(t, h, "GET", "/status?continue="+next))
			var s statusz.Status
			testkit.Must(t, json.Unmarshal([]byte(text), &s))
			if len(text) > 2*maxBytes || s.Volumes[0].MoreObjects != 8192-maxObjects {
				t.Errorf("page %d has %d bytes, and leaves out %d objects", pages, len(text), s.Volumes[0].MoreObjects)
			}
			if next = s.Continue; next == "" {
				if pages < 4 {
					t.Errorf("%d pages", pages)
				}
				break
			}
		}
		if text := body(t, ask(t, h, "GET", "/statusz")); len(text) > 2*maxBytes {
			t.Errorf("the page has %d bytes", len(text))
		}
	})
}

func TestStatusOfOnePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Handler(sourceOf(volumes(100)))
		for path, want := range map[string]int{
			"/status?namespace=team-7&pod=web-7": 1, "/status?namespace=team-8&pod=web-7": 0, "/status?namespace=team-7": 4, "/status?class=db": 100, "/status?class=other": 0,
		} {
			var s statusz.Status
			if err := json.NewDecoder(ask(t, h, "GET", path).Body).Decode(&s); err != nil || s.Total != want || len(s.Volumes) != want || s.Volumes == nil {
				t.Errorf("%s: %d volumes of %d, want %d: %v", path, len(s.Volumes), s.Total, want, err)
			}
		}
	})
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := volumes(3)
		h := Handler(sourceOf(f))
		r := ask(t, h, "POST", "/refresh?namespace=team-1&pod=web-1")
		var got statusz.Refreshed
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || len(got.Volumes) != 1 || got.Volumes[0] != "csi-00001" || got.Now.IsZero() || got.Kind != statusz.RefreshedKind {
			t.Errorf("%+v: %v", got, err)
		}
		for path, header := range map[string][]string{
			"/refresh?namespace=team-1":                   nil,
			"/refresh?pod=web-1":                          nil,
			"/refresh?namespace=team-1&pod=web-1&foreign": {"Origin", "https://evil.example"},
			"/refresh?namespace=team-1&pod=web-1&cross":   {"Sec-Fetch-Site", "cross-site"},
		} {
			if r := ask(t, h, "POST", path, header...); r.StatusCode < 400 {
				t.Errorf("%s %q: %s", path, header, r.Status)
			}
		}
		testkit.Equal(t, "refreshed", len(f.refreshed), 1)
	})
}

func TestWhoMayAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			method, path, host string
			loopback           bool
			want               int
		}{
			{"GET", "/status", "127.0.0.1:8096", true, 200},
			{"GET", "/statusz", "localhost:43210", true, 200},
			{"GET", "/statusz", "[::1]:8096", true, 200},
			{"GET", "/", "localhost", true, 302},
			{"HEAD", "/status", "localhost", true, 200},
			{"GET", "/status", "rebound.evil.example:8096", true, 421},
			{"GET", "/status", "127.0.0.1.evil.example", true, 421},
			{"GET", "/status", "", true, 421},
			{"GET", "/status", "kubernetes.default", false, 200}, // the API server's proxy
			{"POST", "/status", "localhost", true, 405},
			{"PUT", "/statusz", "localhost", true, 405},
			{"GET", "/refresh?namespace=a&pod=b", "localhost", true, 405},
			{"GET", "/metrics", "localhost", true, 404},
			{"GET", "/status?limit=0", "localhost", true, 400},
			{"GET", "/status?limit=x", "localhost", true, 400},
		} {
			s := sourceOf(volumes(1))
			s.Loopback = c.loopback
			r := ask(t, Handler(s), c.method, c.path, "Host", c.host)
			if r.StatusCode != c.want {
				t.Errorf("%s %s of %q: %s, want %d", c.method, c.path, c.host, r.Status, c.want)
			}
			if csp := r.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") || strings.Contains(csp, "unsafe") {
				t.Errorf("%s %s: Content-Security-Policy %q", c.method, c.path, csp)
			}
			if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s: %v", c.method, c.path, r.Header)
			}
		}
	})
}

// A client that asks in a loop, or does not read the answers, costs little.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := volumes(1)
		f.gate = make(chan struct{})
		h := Handler(sourceOf(f))
		var wg sync.WaitGroup
		codes := make(chan int, 2*maxAnswers)
		for range 2 * maxAnswers {
			wg.Go(func() { codes <- ask(t, h, "GET", "/status").StatusCode })
		}
		synctest.Wait()
		testkit.Equal(t, "requests were refused at once", len(codes), maxAnswers)
		time.Sleep(patience)
		synctest.Wait()
		testkit.Equal(t, "requests have ended, but for the one that is answered", len(codes), 2*maxAnswers-1)
		close(f.gate)
		wg.Wait()
		began := time.Now()
		if r := ask(t, h, "GET", "/status"); r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s after %s: the rest is as long as %d times the work", r.Status, time.Since(began), restShare)
		}
		close(codes)
		good := 0
		for code := range codes {
			if code == 200 {
				good++
			} else if code != 503 {
				t.Errorf("status %d", code)
			}
		}
		testkit.Equal(t, "answers", good, 1)
		time.Sleep(restShare * patience)
		testkit.Equal(t, "the status after the rest", ask(t, h, "GET", "/status").StatusCode, 200)
	})
}

// hostile is text that would break out of its place on a page or a terminal.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}` + "\x1b[2J\x1b]0;owned\a\u202e\u009b31m\r\nforged: line"

func hostileSource() *Source {
	now := time.Now()
	long := hostile + strings.Repeat("A", 1<<20)
	pod := identity.Pod{Namespace: hostile, Name: hostile, UID: hostile, ServiceAccount: hostile}
	f := &fixed{
		list: []volume.Status{{
			Identity: volume.Identity{ID: hostile, Pod: pod, Class: class.Ref{Namespace: hostile, Name: hostile}},
			State:    volume.Failing, ClassVersion: hostile, Store: long,
			Progress: volume.Progress{
				Provider: hostile, Versions: []provider.Version{{ID: hostile, Version: long}},
				PublishedAt: now, Failures: 1, LastReason: fault.Denied, LastFailure: long, FailedAt: now,
			},
		}},
		overview: volume.Overview{
			Queues: []schedule.Queue{{Store: long}}, SetAside: []string{"/state/file"},
			Revocations: []volume.Revocation{{Identity: volume.Identity{ID: hostile, Pod: pod, Class: class.Ref{Name: hostile}}, Provider: "vault"}},
		},
	}
	s := sourceOf(f)
	s.Failures.Observe(volume.Outcome{Kind: volume.Published, Identity: volume.Identity{ID: "v", Pod: pod, Class: class.Ref{Name: hostile}}, Err: fault.New(fault.Denied, "%s", long)})
	return s
}

func TestHostileTextStaysText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Handler(hostileSource())
		text := body(t, ask(t, h, "GET", "/statusz?namespace=&pod=&class=&from="+"%22%3E%3Cscript%3E"))
		if len(text) > 256<<10 {
			t.Errorf("the page has %d bytes", len(text))
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Error("the page has control characters")
		}
		page := testkit.Value(html.Parse(strings.NewReader(text)))(t)
		for n := range page.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			switch n.Data {
			case "script", "img", "iframe", "object", "link", "base":
				t.Errorf("the page has a <%s>", n.Data)
			}
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
					t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
				}
			}
		}
		for _, path := range []string{"/status", "/statusz?namespace=" + strings.Repeat("x", 100)} {
			if text := body(t, ask(t, h, "GET", path)); strings.Contains(text, "<script>") || strings.ContainsAny(text, "\x1b\u202e\u009b") || len(text) > 256<<10 {
				t.Errorf("%s: %.300q", path, text)
			}
		}
	})
}

// The page and the JSON show those first that fail.
func TestFailingVolumesComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := volumes(300)
		f.list[250].State, f.list[250].Failures, f.list[250].LastFailure = volume.Failing, 2, "permission denied"
		h := Handler(sourceOf(f))
		text := body(t, ask(t, h, "GET", "/statusz"))
		first, second := strings.Index(text, "team-10/web-250<"), strings.Index(text, "team-0/web-0<")
		if first < 0 || second < first || !strings.Contains(text, "permission denied") || !strings.Contains(text, "1 to 100 of 300") {
			t.Errorf("the failing volume is at %d, another one at %d", first, second)
		}
		testkit.Has(t, text, `href="?from=100"`)                                                       // the way to the other volumes
		testkit.Has(t, body(t, ask(t, h, "GET", "/statusz?from=200&namespace=")), "201 to 300 of 300") // the last page
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &Failures{}
		fail := func(kind volume.Kind, namespace, id string, err error) {
			f.Observe(volume.Outcome{Kind: kind, Identity: volume.Identity{ID: id, Pod: identity.Pod{Namespace: namespace, Name: id}, Class: class.Ref{Name: "db"}}, Err: err})
			time.Sleep(time.Second)
		}
		denied := fault.New(fault.Denied, "no")
		fail(volume.Published, "shop", "a", denied)
		fail(volume.Published, "shop", "b", denied)
		fail(volume.Published, "shop", "a", denied)
		fail(volume.Refreshed, "shop", "c", denied) // its volume tells
		got := f.latest(time.Now())
		if len(got) != 2 || got[0].Pod != "a" || got[0].Times != 2 || got[0].Reason != "Denied" || got[0].Message != "no" || got[0].Class != "db" {
			t.Errorf("%+v", got)
		}
		fail(volume.Published, "shop", "a", nil)
		fail(volume.Unpublished, "shop", "b", nil)
		testkit.Equal(t, "failures", len(f.latest(time.Now())), 0)
		fail(volume.Published, "bank", "good", denied)
		for i := range 500 { // a namespace cannot hide what others met
			fail(volume.Published, "shop", fmt.Sprint(i), denied)
		}
		got = f.latest(time.Now())
		if len(got) != maxOfNamespace+1 || got[0].Pod != "499" || got[len(got)-1].Pod != "good" {
			t.Errorf("%d failures", len(got))
		}
		for i := range 500 { // nor do many
			fail(volume.Published, fmt.Sprint(i/maxOfNamespace), fmt.Sprint("n", i), denied)
		}
		if got = f.latest(time.Now()); len(got) > maxFailures {
			t.Errorf("%d failures", len(got))
		}
		time.Sleep(failureAge)
		testkit.Equal(t, "failures after an hour", len(f.latest(time.Now())), 0)
	})
}

func BenchmarkStatus3000(b *testing.B) {
	h := &handler{Source: sourceOf(volumes(3000))}
	b.Run("json", func(b *testing.B) { // all pages
		b.ReportAllocs()
		for b.Loop() {
			q, n := query{limit: maxVolumes}, 0
			for next := true; next; next = q.after != "" {
				var w bytes.Buffer
				page := h.answer(q)
				testkit.Must(b, encode(&w, page))
				n, q.after = n+len(page.Volumes), page.Continue
			}
			if n != 3000 {
				b.Fatal(n)
			}
		}
	})
	b.Run("html", func(b *testing.B) { // the first page
		b.ReportAllocs()
		r := httptest.NewRequestWithContext(b.Context(), "GET", "/statusz", nil)
		for b.Loop() {
			var w bytes.Buffer
			testkit.Must(b, h.html(&w, r))
		}
	})
}
