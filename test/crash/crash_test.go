package crash

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// crashes is how often the driver is killed; MAYFLY_CRASHES sets another number.
func crashes(t *testing.T) int {
	text := os.Getenv("MAYFLY_CRASHES")
	if text == "" {
		return 200
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

const podCount = 6

// TestKilledAtAnyInstant kills the driver while pods come and go and secrets
// rotate. A reader in every live volume must see a whole payload at all times.
func TestKilledAtAnyInstant(t *testing.T) {
	w := newWorld(t)
	w.start()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	pods := make([]*pod, podCount)
	var wg sync.WaitGroup
	for i := range pods {
		pods[i] = w.newPod(i)
		wg.Go(func() { pods[i].live(ctx) })
		wg.Go(func() { pods[i].read(ctx) })
	}
	wg.Go(func() { w.rotateUntil(ctx) })
	for range crashes(t) {
		time.Sleep(time.Duration(rand.Int64N(int64(120 * time.Millisecond)))) // the random instant
		w.kill()
		w.start()
	}
	stop()
	wg.Wait()
	reads, published := 0, 0
	for _, p := range pods {
		reads += int(p.reads.Load())
		published += p.published
		p.end()
	}
	t.Logf("%d kills, %d publishes, %d whole payloads read", crashes(t), published, reads)
	if reads == 0 || published < podCount {
		t.Error("nothing was tested")
	}
	w.wantNothingLeft()
}

// wantNothingLeft waits until the last login that a kill orphaned has ended by
// its time to live.
func (w *world) wantNothingLeft() {
	w.t.Helper()
	w.eventually("every record is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(w.dir, "state/volumes/*"))
		return err == nil && len(left) == 0
	})
	w.eventually("every Vault token and lease of a pod has ended", func() bool { return w.liveTokens() == 0 && w.liveLeases() == 0 })
	for _, m := range w.mounts() {
		if m != filepath.Join(w.dir, "state") {
			w.t.Errorf("a mount is left: %s", m)
		}
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s (%d tokens, %d leases)", what, w.liveTokens(), w.liveLeases())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) rotateUntil(ctx context.Context) {
	for generation := 1; ctx.Err() == nil; generation++ {
		w.rotate(generation)
		pause(ctx, 50*time.Millisecond)
	}
}

func pause(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(rand.Int64N(int64(most)))):
	}
}

// pod comes and goes, as kubelet's retries make it.
type pod struct {
	kubelet.Pod
	w         *world
	published int
	reads     atomic.Int64
	// mounted is held by the reader while it reads, and by kubelet while it
	// takes the volume away.
	mounted sync.RWMutex
	up      bool
}

func (w *world) newPod(i int) *pod {
	p := &pod{w: w}
	p.Pod = kubelet.Pod{Namespace: "shop", Name: fmt.Sprintf("web-%d", i), ServiceAccount: "web", Class: "secrets"}
	return p
}

// live publishes, republishes and unpublishes until ctx ends. A call that a
// kill cuts off is made again, as kubelet does.
func (p *pod) live(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		p.begin(n)
		if !p.retry(ctx, p.publish) {
			return
		}
		p.set(true)
		p.published++
		for range rand.IntN(8) {
			pause(ctx, 300*time.Millisecond)
			if !p.retry(ctx, p.publish) {
				return
			}
		}
		if rand.IntN(3) == 0 { // most pods stay for longer
			continue
		}
		p.set(false)
		if !p.retry(ctx, p.unpublish) {
			return
		}
	}
}

// begin gives the pod a new life with a new UID, unless the last one is
// still published.
func (p *pod) begin(n int) {
	if p.up {
		return
	}
	uid := fmt.Sprintf("%s-%d", p.Name, n)
	ref := issuer.PodRef{Namespace: "shop", Pod: p.Name, PodUID: uid, ServiceAccount: "web"}
	p.mounted.Lock()
	defer p.mounted.Unlock()
	p.UID, p.Tokens = uid, p.w.issuer.CSITokens(ref, "vault")
}

func (p *pod) set(up bool) {
	p.mounted.Lock()
	defer p.mounted.Unlock()
	p.up = up
}

func (p *pod) publish(ctx context.Context) error   { return p.w.Publish(ctx, p.Pod) }
func (p *pod) unpublish(ctx context.Context) error { return p.w.Unpublish(ctx, p.Pod) }

// retry calls until it works. The driver is dead part of the time.
func (p *pod) retry(ctx context.Context, call func(context.Context) error) bool {
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		err := call(bounded)
		cancel()
		if err == nil {
			return true
		}
		pause(ctx, 20*time.Millisecond)
	}
	return false
}

// end takes the volume away for good.
func (p *pod) end() {
	p.set(false)
	if !p.retry(p.w.t.Context(), p.unpublish) {
		p.w.t.Error("the last unpublish never worked")
	}
}

// read looks at the volume as a container would, all the time.
func (p *pod) read(ctx context.Context) {
	for ctx.Err() == nil {
		p.mounted.RLock()
		if p.up {
			if err := check(p.w.Target(p.Pod)); err != nil {
				p.w.t.Errorf("pod %s read %v", p.UID, err)
			}
			p.reads.Add(1)
		}
		p.mounted.RUnlock()
		pause(ctx, 4*time.Millisecond)
	}
}

// check reads one payload: through one open directory, as docs/classes.md
// says. All of it must be there, of one generation, its key its
// certificate's, and not expired.
func check(target string) error {
	dir, err := unix.Open(filepath.Join(target, "..data"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("no payload: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	files := map[string][]byte{}
	for _, name := range []string{"a", "b", "tls/crt", "tls/key"} {
		if files[name], err = readAt(dir, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if string(files["a"]) != string(files["b"]) || len(files["a"]) == 0 {
		return fmt.Errorf("a mix: a is of generation %q, b of %q", files["a"], files["b"])
	}
	pair, err := tls.X509KeyPair(files["tls/crt"], files["tls/key"])
	if err != nil {
		return fmt.Errorf("a certificate without its key: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err == nil && time.Now().After(leaf.NotAfter) {
		err = errors.New("an expired certificate")
	}
	return err
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

// TestRestartMakesNothingNew: after kill -9 the driver goes on with the tokens
// and certificates that it has.
func TestRestartMakesNothingNew(t *testing.T) {
	w := newWorld(t)
	w.start()
	pods := make([]*pod, podCount)
	for i := range pods {
		pods[i] = w.newPod(i)
		pods[i].begin(0)
		must(t, pods[i].publish(t.Context()))
	}
	holds := func(generation int) func() bool {
		return func() bool {
			for _, p := range pods {
				if b, err := os.ReadFile(filepath.Join(w.Target(p.Pod), "a")); err != nil || string(b) != fmt.Sprint(generation) {
					return false
				}
			}
			return true
		}
	}
	// The first look after the publish is the first that pods share a login for.
	w.rotate(1)
	w.eventually("every pod has looked again", holds(1))
	certificate := func(p *pod) string {
		b, err := os.ReadFile(filepath.Join(w.Target(p.Pod), "tls/crt"))
		must(t, err)
		return string(b)
	}
	before := certificate(pods[0])
	mark, err := w.vault.Mark()
	must(t, err)
	for range 10 {
		w.kill()
		w.start()
		for _, p := range pods {
			must(t, p.publish(t.Context()))
		}
	}
	w.rotate(7)
	w.eventually("the rotation goes on", holds(7))
	counts, err := w.vault.CountRequests(t.Context(), mark)
	must(t, err)
	if n := counts["auth/kubernetes/login"] + counts["pki/issue/web"]; n != 0 {
		t.Errorf("ten restarts made %d new logins and certificates: %v", n, counts)
	}
	if certificate(pods[0]) != before {
		t.Error("the certificate is another")
	}
	for _, p := range pods {
		p.end()
		if _, err := os.Lstat(filepath.Dir(w.Target(p.Pod))); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the pod's directory is left: %v", err)
		}
	}
	w.eventually("every Vault token and lease has ended", func() bool { return w.liveTokens() == 0 && w.liveLeases() == 0 })
}
