package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/pkg/volume/statedir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// rig is a Manager on real tmpfs mounts, with a store that tests steer.
type rig struct {
	*volume.Manager
	t        *testing.T
	classes  *classes
	store    *fakeStore
	other    *fakeStore // of the provider "other"
	seen     *observer
	follower *follower
	stateDir string
	podsDir  string
	limits   budget.Limits // of the next restart
	budget   *budget.Budget
	ceilings func(*volume.Config) // of the next restart; may be nil
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts tmpfs")
	}
	r := &rig{t: t, stateDir: t.TempDir(), podsDir: t.TempDir(), classes: newClasses(), store: newFakeStore(), other: newFakeStore(), seen: &observer{}, follower: &follower{}}
	r.restart()
	t.Cleanup(r.unmountAll)
	return r
}

// restart makes a new Manager on the state of the last.
func (r *rig) restart() {
	r.t.Helper()
	mounts := testkit.Value(tmpfs.New())(r.t)
	log := slog.New(slog.NewTextHandler(testWriter{r.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store := testkit.Value(statedir.New(r.stateDir, log))(r.t)
	r.budget = budget.New(r.limits)
	store.Charge(r.budget)
	config := volume.Config{
		Budget: r.budget, Classes: r.classes, Providers: provider.Registry{"fake": r.store, "other": r.other}, Renderer: rendered.New(nil), Mounts: mounts, Store: store, Observer: r.seen, Follower: r.follower, Logger: log,
		Limits: limits.Limits{Interval: time.Minute, SizeLimit: 1 << 20, InodeLimit: 64}, LastGoodAge: time.Hour, Workers: 4, RefreshTimeout: 10 * time.Second, ReleaseTimeout: 5 * time.Second,
	}
	if r.ceilings != nil {
		r.ceilings(&config)
	}
	r.Manager = testkit.Value(volume.New(config))(r.t)
	testkit.Must(r.t, r.Recover())
}

func newDirStore(t *testing.T, dir string, log *bytes.Buffer) *statedir.Store {
	t.Helper()
	return testkit.Value(statedir.New(dir, slog.New(slog.NewTextHandler(log, nil))))(t)
}

// background runs the Manager until the test or the returned func ends it.
func (r *rig) background() (stop func()) { return testkit.Background(r.t, r.Run) }

// newPublished has a volume, of the pod a; its Manager does not run.
func newPublished(t *testing.T) (*rig, volume.Request) {
	t.Helper()
	r := newRig(t)
	return r, r.publishOne()
}

// publishOne publishes a volume of the pod a.
func (r *rig) publishOne() volume.Request {
	r.t.Helper()
	req := r.request("a")
	r.publish(req)
	return req
}

// newRunning is a rig whose Manager runs.
func newRunning(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.background()
	return r
}

// newLive has a volume too, of the pod a.
func newLive(t *testing.T) (*rig, volume.Request) {
	t.Helper()
	r := newRunning(t)
	return r, r.publishOne()
}

func (r *rig) unmountAll() {
	targets, _ := filepath.Glob(filepath.Join(r.podsDir, "*", "mount"))
	for _, target := range targets {
		for unix.Unmount(target, unix.MNT_DETACH) == nil {
		}
	}
}

// request is a publish for the pod of that name, whose parent directory is made.
func (r *rig) request(pod string) volume.Request {
	r.t.Helper()
	return benchRequest(r.t, r, pod)
}

func benchRequest(t testing.TB, r *rig, pod string) volume.Request {
	t.Helper()
	dir := filepath.Join(r.podsDir, pod)
	testkit.Must(t, os.MkdirAll(dir, 0o750))
	return volume.Request{Identity: volume.Identity{
		ID: "csi-" + pod, Target: filepath.Join(dir, "mount"),
		Pod:   identity.Pod{Namespace: "shop", Name: pod, UID: "uid-" + pod, ServiceAccount: "web"},
		Class: class.Ref{Namespace: "shop", Name: "secrets"},
	}}
}

func (r *rig) publish(req volume.Request) {
	r.t.Helper()
	if err := r.Publish(r.t.Context(), req); err != nil {
		r.t.Fatalf("publishing: %v", err)
	}
}

// wantKept publishes again, and wants an error that is not final: the pod may be running.
func (r *rig) wantKept(req volume.Request) {
	r.t.Helper()
	var kept *volume.KeptError
	if err := r.Publish(r.t.Context(), req); !errors.As(err, &kept) {
		r.t.Errorf("the republish answers %v, want one that keeps the mount", err)
	}
}

func (r *rig) wantFile(req volume.Request, name, want string) {
	r.t.Helper()
	got, err := os.ReadFile(filepath.Join(req.Target, name))
	if err != nil || string(got) != want {
		r.t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
	}
}

func (r *rig) wantNoTarget(req volume.Request) {
	r.t.Helper()
	if _, err := os.Lstat(req.Target); !os.IsNotExist(err) {
		r.t.Errorf("the target path %s is still there: %v", req.Target, err)
	}
}

func (r *rig) wantNothing(req volume.Request) {
	r.t.Helper()
	r.wantNoTarget(req)
	testkit.Empty(r.t, "records are left", r.records())
	testkit.Eventually(r.t, "no class is left in the state", func() bool { return len(r.classFiles()) == 0 })
}

func (r *rig) classFiles() []string {
	return testkit.Value(filepath.Glob(filepath.Join(r.stateDir, "*.class")))(r.t)
}

// records are those of volumes, and not the classes that they name.
func (r *rig) records() []string {
	return testkit.Value(filepath.Glob(filepath.Join(r.stateDir, "*.json*")))(r.t)
}

// onlyRecord reads the one record that there is, as a new process would, from
// a copy: the Manager may be at work.
func (r *rig) onlyRecord() *volume.Record {
	r.t.Helper()
	dir := r.t.TempDir()
	for _, file := range r.records() {
		if data, err := os.ReadFile(file); err == nil {
			testkit.Must(r.t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), data, 0o600))
		}
	}
	s := testkit.Value(statedir.New(dir, slog.New(slog.DiscardHandler)))(r.t)
	loaded, err := s.Load()
	if err != nil || len(loaded.Records) != 1 {
		r.t.Fatalf("%d records, want 1: %v", len(loaded.Records), err)
	}
	return loaded.Records[0]
}

// fakeStore is a secret store in memory, with people's mishaps on demand.
type fakeStore struct {
	mu       sync.Mutex
	files    map[string]string
	modes    map[string]fs.FileMode
	refresh  time.Duration
	lease    time.Duration // of every file, from each fetch on
	fail     error
	refuse   map[string]error // by the role that the class asks for
	partial  error
	gate     chan struct{} // a fetch waits for it, or for its context
	stubborn bool          // a fetch goes on though its context has ended
	state    string        // what is exported, if it is set
	fetches  int
	fresh    int
	requests []provider.Request
	released []string
	last     string // the last call: a fetch or a release
	failRel  int
	relGate  chan struct{}     // a release waits for it
	keptBack map[string]bool   // volumes whose release waits until its context ends
	servers  map[string]string // that volumes are asked for at
	memory   string
	panics   bool
	imported map[string]string
	warnings []string // of every class
	invalid  error    // of every class, when it is judged
	judged   int
}

// Validate implements provider.Validator.
func (s *fakeStore) Validate(*class.Class) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judged++
	return s.warnings, s.invalid
}

func newFakeStore() *fakeStore {
	return &fakeStore{files: map[string]string{"password": "one"}, modes: map[string]fs.FileMode{}, imported: map[string]string{}}
}

func (s *fakeStore) set(change func(s *fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *fakeStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

func (s *fakeStore) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	s.mu.Lock()
	gate, stubborn := s.gate, s.stubborn
	s.fetches++
	s.last = "fetch"
	if r.Fresh {
		s.fresh++
	}
	s.requests = append(s.requests, r)
	provider.Asked(ctx, fmt.Sprintf("fetch-%d", s.fetches))
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			if !stubborn {
				return nil, ctx.Err()
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("a provider's defect")
	}
	if s.fail != nil {
		return nil, s.fail
	}
	if err := s.refuse[r.Class.Parameters["roleName"]]; err != nil {
		return nil, err
	}
	p := &provider.Payload{Partial: s.partial}
	if s.refresh > 0 {
		p.RefreshAt = time.Now().Add(s.refresh)
	}
	for name, contents := range s.files {
		p.Files = append(p.Files, provider.File{Path: name, Mode: s.modes[name], Contents: secret.NewBytes([]byte(contents))})
		p.Versions = append(p.Versions, provider.Version{ID: name, Version: fmt.Sprint(len(contents))})
		if s.lease > 0 {
			p.Leases = append(p.Leases, provider.Lease{Object: name, ID: "lease", Expires: time.Now().Add(s.lease)})
		}
	}
	return p, nil
}

func (s *fakeStore) Recall(_ provider.Request, oldest time.Time) (*provider.Payload, time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asOf := time.Now().Add(-30 * time.Minute)
	if s.memory == "" || asOf.Before(oldest) {
		return nil, time.Time{}, false
	}
	return &provider.Payload{Files: []provider.File{{Path: "password", Contents: secret.NewBytes([]byte(s.memory))}}}, asOf, true
}

// Destination implements provider.Router.
func (s *fakeStore) Destination(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.servers[id]
}

func (s *fakeStore) Release(ctx context.Context, id string) error {
	s.mu.Lock()
	gate := s.relGate
	if s.keptBack[id] {
		gate = make(chan struct{}) // for ever
	}
	panics := s.panics
	s.mu.Unlock()
	if panics {
		panic("a provider's defect")
	}
	select {
	case <-ctx.Done():
		if s.holdsBack(id) {
			return ctx.Err()
		}
		<-gate
	case <-orClosed(gate):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	provider.Asked(ctx, fmt.Sprintf("release-%d", s.failRel))
	if s.failRel > 0 {
		s.failRel--
		return fault.New(fault.Unavailable, "the store is away")
	}
	s.released, s.last = append(s.released, id), "release"
	return nil
}

func (s *fakeStore) releases() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.released)
}

func (s *fakeStore) holdsBack(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keptBack[id]
}

// orClosed returns the gate, or a closed channel if there is none.
func orClosed(gate chan struct{}) chan struct{} {
	if gate == nil {
		gate = make(chan struct{})
		close(gate)
	}
	return gate
}

func (s *fakeStore) Export(id string) secret.Bytes {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("a provider's defect")
	}
	if s.state != "" {
		return secret.NewBytes([]byte(s.state))
	}
	return secret.NewBytes([]byte("state of " + id))
}

func (s *fakeStore) Import(id string, state secret.Bytes) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("a provider's defect")
	}
	s.imported[id] = string(state.Reveal())
	return nil
}

// classes holds one class, which tests edit.
type classes struct {
	mu    sync.Mutex
	class class.Class
	// providers, by the name of the class, go before the class's own.
	providers map[string]string
	err       error
	retained  int
}

func newClasses() *classes {
	return &classes{class: class.Class{Ref: class.Ref{Namespace: "shop", Name: "secrets"}, UID: "1", ResourceVersion: "1", Provider: "fake"}}
}

func (c *classes) edit(change func(*class.Class)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.class.ResourceVersion += "+"
	change(&c.class)
}

func (c *classes) version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.class.ResourceVersion
}

// spoil has Get fail, or work again.
func (c *classes) spoil(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *classes) Get(_ context.Context, ref class.Ref) (*class.Class, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	out := c.class
	out.Ref = ref
	if name, ok := c.providers[ref.Name]; ok {
		out.Provider = name
	}
	return &out, nil
}

func (c *classes) Retain(class.Ref)  { c.add(1) }
func (c *classes) Release(class.Ref) { c.add(-1) }

func (c *classes) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retained += n
}

func (c *classes) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retained
}

type observer struct {
	mu       sync.Mutex
	outcomes []volume.Outcome
}

func (o *observer) Observe(x volume.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcomes = append(o.outcomes, x)
}

func (o *observer) count(k volume.Kind, failed bool) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, x := range o.outcomes {
		if x.Kind == k && (x.Err != nil) == failed {
			n++
		}
	}
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
