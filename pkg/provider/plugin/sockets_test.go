package plugin_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/test/pluginprovider"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestUnknown(t *testing.T) {
	w := newWorld(t, plugin.Config{BuiltIn: []string{"akeyless", "vault"}})
	testkit.Must(t, os.WriteFile(filepath.Join(w.dir, "file.sock"), nil, 0o600))
	testkit.Must(t, os.WriteFile(filepath.Join(w.dir, "readme.txt"), nil, 0o600))
	for name, words := range map[string][]string{
		"azure":                 {`no provider "azure"`, "azure.sock in " + w.dir, "found in these directories: aws;", "built in: akeyless, vault"},
		"file":                  {"is not a socket", "file.sock"},
		"":                      {`""`, "at most 30"},
		"../evil":               {"at most 30"},
		"a/b":                   {"at most 30"},
		strings.Repeat("n", 31): {"at most 30"},
	} {
		p, err := w.Get(name)
		if p != nil {
			t.Errorf("Get(%q) gave a provider", name)
		}
		testkit.Fails(t, err, fault.UnknownProvider, words...)
	}
	testkit.Equal(t, "the names", w.Names(), []string{"aws"})
}

func TestBadConfig(t *testing.T) {
	for _, tc := range []struct {
		c    plugin.Config
		want string
	}{
		{plugin.Config{Dirs: []string{"relative"}}, "absolute"},
		{plugin.Config{Dirs: []string{"/" + strings.Repeat("d", 71)}}, "at most 71"},
		{plugin.Config{Timeout: -1}, "negative"},
		{plugin.Config{MaxMessageBytes: -1}, "negative"},
	} {
		testkit.Error(plugin.New(tc.c))(t, tc.want)
	}
}

// A provider that starts after the driver is found, in each of the directories, the first of which
// wins; one that stops is unknown again.
func TestComesAndGoes(t *testing.T) {
	first, second := socketDir(t), socketDir(t)
	w := newWorld(t, plugin.Config{Dirs: []string{filepath.Join(first, "later"), second}})
	_, err := w.Get("aws")
	testkit.Fails(t, err, fault.UnknownProvider, "later or "+second, "none")

	w.dir = second
	late := w.serve("aws")
	w.good(w.request())
	testkit.Must(t, os.Mkdir(filepath.Join(first, "later"), 0o755))
	w.dir = filepath.Join(first, "later")
	before := w.serve("aws")
	w.good(w.request())
	testkit.Equal(t, "calls of the first directory's provider", len(before.Requests()), 1)
	p := w.get("aws")
	before.Stop()
	late.Stop()
	_, err = w.Get("aws")
	testkit.Fails(t, err, fault.UnknownProvider)
	_, err = p.Fetch(t.Context(), w.request())
	testkit.Fails(t, err, fault.UnknownProvider, `"aws"`)
}

func TestOneConnection(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	w.good(w.request())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := w.fetch(w.request()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	testkit.Equal(t, "connections for 21 calls", w.server.Connections(), 1)
}

// The socket of a provider that was killed stays, and fails a call at once; the
// provider's next process is called at once.
func TestKilledAndBack(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	w.good(w.request())
	for range 3 {
		w.server.Kill()
		w.bad(w.request(), fault.Unavailable, "aws.sock") // it may have been sent before the end was seen
		w.bad(w.request(), fault.Unavailable, "aws.sock", "nobody serves it")
		w.server = w.serve("aws")
		w.good(w.request())
	}
}

// After a failed connection the next call makes another at once: gRPC alone
// would let calls fail for a second, then longer and longer.
func TestNoPauseAfterAFailedConnection(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	for range 3 {
		w.server.Refuse(1)
		w.server.Cut()
		testkit.Eventually(t, "a refused connection", func() bool { _, err := w.fetch(w.request()); return err != nil && w.server.Refused() })
		w.good(w.request())
	}
}

// A restart during a call costs only the second call.
func TestRestartUnderACall(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	w.server.Freeze()
	result := make(chan error, 1)
	p := w.get("aws")
	go func() {
		_, err := p.Fetch(t.Context(), w.request())
		result <- err
	}()
	testkit.Eventually(t, "the call", func() bool { return len(w.server.Requests()) == 1 })
	next := w.serve("aws")
	w.server.Cut()
	if err := <-result; err != nil {
		t.Errorf("Fetch over a restart: %v", err)
	}
	testkit.Equal(t, "calls of the new process", len(next.Requests()), 1)
	w.server.Kill()
}

// The cases in which the server is not a provider at all.
func TestBrokenServers(t *testing.T) {
	reasons := map[string]fault.Reason{
		"silent": fault.Timeout, "stalled": fault.Timeout, "oversize": fault.TooLarge,
		"slam": fault.Unavailable, "garbage": fault.Unavailable, "http1": fault.Unavailable,
		"badFrames": fault.Unavailable, "goAway": fault.Unavailable, "truncated": fault.Unavailable,
		"reset": fault.BadAnswer, "http404": fault.BadAnswer, "badProto": fault.BadAnswer, "compressed": fault.BadAnswer,
		"noAnswer": fault.BadAnswer, "noStatus": fault.BadAnswer, "longHeaders": fault.Unavailable,
	}
	good := newWorld(t, plugin.Config{Timeout: 3 * time.Second})
	for _, kind := range pluginprovider.RawKinds() {
		t.Run(kind, func(t *testing.T) {
			s := testkit.Value(pluginprovider.StartRaw(good.dir, "broken", kind))(t)
			defer s.Stop()
			p, err := good.get("broken").Fetch(t.Context(), good.request())
			if err == nil || p != nil {
				t.Fatalf("Fetch gave %v, %v", p, err)
			}
			want, ok := reasons[kind]
			if !ok {
				t.Fatalf("the test does not know what to expect; got %s: %v", fault.Of(err), err)
			}
			testkit.Fails(t, err, want, `"broken"`, "broken.sock")
			good.good(good.request())
		})
	}
}

// A provider at its limit makes the others wait, and canceled callers leave the queue.
func TestConcurrencyLimit(t *testing.T) {
	w := newWorld(t, plugin.Config{MaxConcurrent: 2})
	w.server.Freeze()
	p := w.get("aws")
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		wg.Go(func() {
			if _, err := p.Fetch(t.Context(), w.request()); err != nil {
				t.Error(err)
			}
		})
	}
	testkit.Eventually(t, "two calls", func() bool { return len(w.server.Requests()) == 2 })
	canceled := make(chan error)
	go func() {
		_, err := p.Fetch(ctx, w.request())
		canceled <- err
	}()
	cancel()
	testkit.Fails(t, <-canceled, fault.Canceled, "2 running calls")
	testkit.Equal(t, "calls that run under a limit of 2", len(w.server.Requests()), 2)
	w.server.Thaw()
	wg.Wait()
	testkit.Equal(t, "calls that were not canceled", len(w.server.Requests()), 4)
}

func TestTimeouts(t *testing.T) {
	w := newWorld(t, plugin.Config{Timeout: 200 * time.Millisecond})
	w.bad(w.request("answer", "hang"), fault.Timeout, "did not answer within 200ms")
	// A provider whose clock is ahead gives up first; the driver's limit applies all the same.
	w.bad(w.request("answer", "hang", "early", "60ms"), fault.Timeout, "did not answer within 200ms")

	w = newWorld(t, plugin.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := w.get("aws").Fetch(ctx, w.request("answer", "hang"))
	testkit.Fails(t, err, fault.Timeout, `"aws"`)
	testkit.Is(t, err, context.DeadlineExceeded)
}

// clock is a fake clock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// A provider that hangs delays only the calls that find out, until it passes a health check.
func TestHungProvider(t *testing.T) {
	now := &clock{now: time.Unix(1_000_000, 0)}
	w := newWorld(t, plugin.Config{Timeout: 2 * time.Second, Now: now.Now})
	other := w.serve("azure")
	w.server.Freeze()
	w.bad(w.request(), fault.Timeout, "did not answer within 2s")

	err := w.bad(w.request(), fault.Unavailable, "no sign of life", "provider's pod")
	if fault.RetryAfter(err) <= 0 {
		t.Error("the fault does not say when to come back")
	}
	if pings, calls := w.server.Pings(), len(w.server.Requests()); pings != 1 || calls != 1 {
		t.Errorf("%d signs of life asked for and %d calls, want 1 and 1", pings, calls)
	}
	for range 50 {
		w.bad(w.request(), fault.Unavailable)
	}
	testkit.Equal(t, "signs of life asked for, no more than the one", w.server.Pings(), 1)
	if _, err := w.get("azure").Fetch(t.Context(), w.request()); err != nil || len(other.Requests()) != 1 {
		t.Errorf("another provider suffers: %v", err)
	}

	w.server.Thaw()
	w.bad(w.request(), fault.Unavailable) // the pause is not over
	now.advance(time.Minute)
	w.good(w.request())
	w.good(w.request())
	testkit.Equal(t, "signs of life asked for, one more and none after it", w.server.Pings(), 2)
}

// A store that hangs for one pod is not a provider that hangs.
func TestSlowVolumeHarmsNoOther(t *testing.T) {
	w := newWorld(t, plugin.Config{Timeout: 2 * time.Second})
	for range 2 {
		w.bad(w.request("answer", "hang"), fault.Timeout)
		w.good(w.request())
	}
	testkit.Equal(t, "signs of life asked for, one after each timeout", w.server.Pings(), 2)
}

// A provider without the Version call is alive as well.
func TestSignOfLifeWithoutVersion(t *testing.T) {
	w := newWorld(t, plugin.Config{Timeout: 2 * time.Second})
	w.server.Kill()
	s := testkit.Value(pluginprovider.Start(w.dir, "aws", pluginprovider.Options{Store: w.store, NoVersion: true}))(t)
	defer s.Stop()
	w.bad(w.request("answer", "hang"), fault.Timeout)
	w.good(w.request())
	testkit.Equal(t, "signs of life asked for", s.Pings(), 1)
}

func TestHealth(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	w.serve("gcp").Kill()
	raw := testkit.Value(pluginprovider.StartRaw(w.dir, "odd", "garbage"))(t)
	defer raw.Stop()
	all := w.Health(t.Context(), w.Names())
	if len(all) != 3 || all[0].Name != "aws" || all[1].Name != "gcp" || all[2].Name != "odd" {
		t.Fatalf("Health() = %+v", all)
	}
	if s := all[0]; s.Err != nil || s.Runtime != "pluginprovider" || s.Version != "v0.0.1" || s.Socket != filepath.Join(w.dir, "aws.sock") {
		t.Errorf("of a good provider: %+v", s)
	}
	for _, s := range all[1:] {
		if s.Err == nil || !strings.Contains(s.Err.Error(), s.Name+".sock") {
			t.Errorf("of a broken provider: %+v", s)
		}
	}
}

// When a provider in use stops answering that is logged once, and once when it answers again. An
// unused one is not checked.
func TestWatch(t *testing.T) {
	var logs bytes.Buffer
	w := newWorld(t, plugin.Config{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	unused := w.serve("gcp")
	w.good(w.request())
	plugin.Watch(w.Registry, t.Context())
	if got := w.Answering(); len(got) != 1 || !got["aws"] {
		t.Errorf("answering: %v", got)
	}
	testkit.Equal(t, "signs of life asked for of a provider that nobody uses", unused.Pings(), 0)
	w.server.Kill()
	for range 3 {
		plugin.Watch(w.Registry, t.Context())
	}
	if got := w.Answering(); len(got) != 1 || got["aws"] {
		t.Errorf("answering: %v", got)
	}
	w.server = w.serve("aws")
	for range 3 {
		plugin.Watch(w.Registry, t.Context())
	}
	if got := w.Answering(); !got["aws"] {
		t.Errorf("answering: %v", got)
	}
	text := logs.String()
	if down, up := strings.Count(text, "does not answer"), strings.Count(text, "plugin answers"); down != 1 || up != 2 {
		t.Errorf("told of %d stops and %d starts, want 1 and 2:\n%s", down, up, text)
	}
}

// Unused connections are closed, and those of sockets that are gone; running calls are not
// affected.
func TestRun(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.good(w.request())
	w.server.Freeze()
	running := make(chan error, 1)
	p := w.get("aws")
	go func() {
		_, err := p.Fetch(t.Context(), w.request())
		running <- err
	}()
	testkit.Eventually(t, "the call", func() bool { return len(w.server.Requests()) == 2 })
	cancel()
	testkit.Is(t, <-done, context.Canceled)
	w.server.Thaw()
	if err := <-running; err != nil {
		t.Errorf("a call that ran when the driver stopped: %v", err)
	}
	_, err := p.Fetch(t.Context(), w.request())
	testkit.Fails(t, err, fault.Canceled, "the driver stops")
}

var _ interface {
	Get(name string) (provider.Provider, error)
} = (*plugin.Registry)(nil)

// Providers that stop in the middle of their answers use up their own slots only: the others'
// answers are read meanwhile.
func TestStalledAnswersHoldUpNobodyElse(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	const calls = 20 // of the 32 that each may be given, far more than it may answer at once
	for _, name := range []string{"broken", "worse", "worst"} {
		s := testkit.Value(pluginprovider.StartRaw(w.dir, name, "stalled"))(t)
		t.Cleanup(s.Stop)
		for range calls {
			wg.Go(func() {
				testkit.Failure(w.get(name).Fetch(ctx, w.request()))(t, fault.Canceled)
			})
		}
		testkit.Eventually(t, "the stalled calls to begin", func() bool { return s.Calls() == calls })
	}
	w.good(w.request())
}

// One tenant's unanswered calls do not keep another tenant from the provider.
func TestHungCallsHoldUpNoOtherTenant(t *testing.T) {
	w := newWorld(t, plugin.Config{MaxConcurrent: 4})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 10 {
		wg.Go(func() { _, _ = w.get("aws").Fetch(ctx, w.request("answer", "hang")) })
	}
	testkit.Eventually(t, "the calls to begin", func() bool { return len(w.server.Requests()) == 4 })
	other := w.request()
	other.Pod.Namespace, other.Tokens = "other", tokensOf(t, "other/web", "sts.amazonaws.com")
	w.good(other)
}
