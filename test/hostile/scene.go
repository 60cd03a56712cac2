package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/test/bench/sandbox"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

const (
	// callTimeout bounds one of kubelet's calls for the hostile tenant.
	callTimeout = 60 * time.Second
	// maxRetryDelay bounds the growing pause between kubelet's calls, which is
	// two minutes on a node.
	maxRetryDelay = 4 * time.Second
	// leaveTimeout bounds one unpublish after the attacks, and leaveLimit all of them.
	leaveTimeout = 15 * time.Second
	leaveLimit   = time.Minute
	leaveAtOnce  = 8
)

// scene is the environment of one attack: the tenant's own servers, classes, pods and files.
type scene struct {
	*world
	attack  attack
	servers []*server
	// When the attack began and was over.
	began, ended time.Time

	calls sync.WaitGroup

	mu      sync.Mutex
	pods    []kubelet.Pod
	mounted map[string]bool  // by UID
	once    int              // how many pods were mounted at some time
	counts  map[string]int64 // of the attack's own
	refused int              // calls that the driver answered with an error
	absent  int              // calls that the driver did not answer
	// The slowest of kubelet's calls for it.
	slowest, slowestEnd time.Duration
	lastErr             string // the driver's, to such a call
	// Bytes and files in its volumes, and bytes in the driver's state, at most.
	peakBytes, peakFiles int64
	peakState, stateSize int64
	stuck                int // unpublishes that failed
}

func newScene(w *world, a attack) *scene {
	s := &scene{world: w, attack: a, mounted: map[string]bool{}, counts: map[string]int64{}}
	for range a.servers {
		s.addServer(false)
	}
	return s
}

// addServer starts a server, which classes may name.
func (s *scene) addServer(https bool) *server {
	server := newServer(https)
	s.servers = append(s.servers, server)
	s.allowed = append(s.allowed, server.URL)
	return server
}

func (s *scene) close() {
	for _, server := range s.servers {
		server.close()
	}
}

// add counts something of the attack's own.
func (s *scene) add(what string, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what] += n
	return s.counts[what]
}

func (s *scene) count(what string) int64 { return s.add(what, 0) }

// parameters of a class that leads to one of the tenant's servers.
func (s *scene) parameters(server int, objects string, more ...string) map[string]string {
	p := map[string]string{
		"vaultAddress": s.servers[server].URL, "roleName": "app", "refreshInterval": "1s", "sessionSharing": "pod", "objects": objects,
	}
	for i := 0; i+1 < len(more); i += 2 {
		p[more[i]] = more[i+1]
	}
	return p
}

// oneObject is a class's objects with one entry.
const oneObject = "[{objectName: a, secretPath: kv1/a, secretKey: k}]"

// name makes names of classes and pods that no other attack has.
func (s *scene) name(parts ...any) string {
	name := s.attack.name
	for _, part := range parts {
		name += fmt.Sprint("-", part)
	}
	return name
}

// put makes or edits a class of this attack.
func (s *scene) put(name string, parameters map[string]string) {
	provider := "vault"
	if parameters["akeylessGatewayURL"] != "" {
		provider = "akeyless"
	}
	if err := s.class(evil, name, provider, parameters); err != nil {
		panic(fmt.Sprintf("hostile: %v", err)) // plain data
	}
}

// podsOf makes pods of a class, with a service account each or one for all.
func (s *scene) podsOf(class string, n int, ownAccounts bool) []kubelet.Pod {
	pods := make([]kubelet.Pod, n)
	for i := range pods {
		account := s.attack.name
		if ownAccounts {
			account = s.name(i)
		}
		pods[i] = s.pod(evil, fmt.Sprintf("%s-%d", class, i), account, class)
	}
	return pods
}

// mount publishes pods as kubelet does, each again and again until it succeeds or ctx ends. It does
// not wait.
func (s *scene) mount(ctx context.Context, pods ...kubelet.Pod) {
	s.mu.Lock()
	s.pods = append(s.pods, pods...)
	s.mu.Unlock()
	for _, pod := range pods {
		s.calls.Go(func() {
			for delay := retryDelay; s.publish(ctx, pod) != nil && pause(ctx, delay); delay = min(2*delay, maxRetryDelay) {
			}
		})
	}
}

func (s *scene) publish(ctx context.Context, pod kubelet.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	err := s.kubelet.Publish(ctx, pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest = max(s.slowest, time.Since(began))
	switch {
	case err != nil && (ctx.Err() != nil || driverAway(err)):
		s.absent++
		return err
	case err != nil:
		s.refused++
		s.lastErr = err.Error()
		return err
	}
	s.mounted[pod.UID] = true
	s.once++
	return nil
}

func (s *scene) unpublish(ctx context.Context, pod kubelet.Pod) error {
	began := time.Now()
	err := s.kubelet.Unpublish(ctx, pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowestEnd = max(s.slowestEnd, time.Since(began))
	if err == nil {
		delete(s.mounted, pod.UID)
	}
	return err
}

// driverAway reports whether an error is gRPC's own, because the call reached no driver.
func driverAway(err error) bool {
	text := status.Convert(err).Message()
	return status.Code(err) == codes.Unavailable &&
		(strings.HasPrefix(text, "connection error:") || strings.HasPrefix(text, "error reading from server:") || strings.Contains(text, "transport is closing"))
}

// comeAndGo publishes and unpublishes pods of a class, atOnce at a time, until ctx ends. It does
// not wait.
func (s *scene) comeAndGo(ctx context.Context, class string, atOnce int) {
	for line := range atOnce {
		s.calls.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if !s.oneLife(ctx, s.pod(evil, fmt.Sprintf("%s-%d-%d", class, line, i), s.attack.name, class)) {
					return
				}
				s.add("gone", 1)
				pause(ctx, retryDelay)
			}
		})
	}
}

// oneLife returns false if ctx ends before the pod does.
func (s *scene) oneLife(ctx context.Context, pod kubelet.Pod) bool {
	if s.publish(ctx, pod) != nil {
		pause(ctx, retryDelay)
	}
	for s.unpublish(ctx, pod) != nil {
		if !pause(ctx, retryDelay) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.pods = append(s.pods, pod) // for the end
			return false
		}
	}
	return true
}

// awaitMounted waits for the pods for a limited time, so that refused ones do not block the rest of
// the attack.
func (s *scene) awaitMounted(ctx context.Context, longest time.Duration) {
	end := time.Now().Add(longest)
	for time.Now().Before(end) {
		s.mu.Lock()
		all := len(s.mounted) >= len(s.pods)
		s.mu.Unlock()
		if all || !pause(ctx, lookEvery) {
			return
		}
	}
}

// sample records the size of the attack's volumes.
func (s *scene) sample(mounts []string) {
	s.mu.Lock()
	own := map[string]bool{}
	for _, pod := range s.pods {
		own[s.kubelet.Target(pod)] = true
	}
	s.mu.Unlock()
	var size, files int64
	for _, mount := range mounts {
		var stat unix.Statfs_t
		if own[mount] && unix.Statfs(mount, &stat) == nil && stat.Type == unix.TMPFS_MAGIC {
			size += int64(stat.Blocks-stat.Bfree) * stat.Bsize //nolint:gosec // a tmpfs is small
			files += int64(stat.Files - stat.Ffree)            //nolint:gosec // the same
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peakBytes, s.peakFiles = max(s.peakBytes, size), max(s.peakFiles, files)
	used, whole := stateUse(s.stateDir())
	s.peakState, s.stateSize = max(s.peakState, used), max(s.stateSize, whole)
}

// sampleAll samples every attack's volumes until ctx ends.
func sampleAll(ctx context.Context, scenes []*scene) {
	for pause(ctx, time.Second) {
		if len(scenes) == 0 {
			return
		}
		mounts, err := sandbox.MountsBelow(scenes[0].kubeletDir())
		if err != nil {
			return
		}
		for _, s := range scenes {
			s.sample(mounts)
		}
	}
}

// leave unpublishes the attack's pods. The driver must allow it, whatever the state of their
// volumes.
func (s *scene) leave(ctx context.Context) {
	places := make(chan struct{}, leaveAtOnce)
	var calls sync.WaitGroup
	for _, pod := range s.pods {
		places <- struct{}{}
		calls.Go(func() {
			defer func() { <-places }()
			if !s.leaveOne(ctx, pod) {
				s.mu.Lock()
				s.stuck++
				s.mu.Unlock()
			}
		})
	}
	calls.Wait()
}

func (s *scene) leaveOne(ctx context.Context, pod kubelet.Pod) bool {
	for {
		call, cancel := context.WithTimeout(ctx, leaveTimeout)
		err := s.unpublish(call, pod)
		cancel()
		if err == nil {
			return true
		}
		if !pause(ctx, retryDelay) {
			return false
		}
	}
}

// ownFiles is a directory of another pod of the tenant, such as an
// emptyDir, in kubelet's directory, which the driver sees.
func (s *scene) ownFiles() (string, error) {
	dir := filepath.Join(s.kubeletDir(), "pods", uid(evil, "files", s.attack.name), "volumes", "kubernetes.io~empty-dir", "files")
	return dir, os.MkdirAll(dir, 0o755)
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
