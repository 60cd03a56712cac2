package crash

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// pod is published and unpublished again and again, with kubelet's retries.
type pod struct {
	kubelet.Pod
	env       *environment
	longLived bool
	published int
	reads     atomic.Int64
	// users are the passwords by database user, and certificates all that the reader has read. Only the
	// reader uses both.
	users        map[string]string
	certificates map[string]bool
	// mounted is locked by readers while they read, and by kubelet while it unpublishes the volume.
	mounted sync.RWMutex
	up      bool
	// since is when it began to wait for its volume, and generation the newest that its reader has read.
	since      time.Time
	generation atomic.Int64
}

func (env *environment) newPod(i int) *pod {
	p := &pod{env: env, longLived: i < longLived, users: map[string]string{}, certificates: map[string]bool{}}
	p.Pod = kubelet.Pod{Namespace: "shop", Name: fmt.Sprintf("web-%d", i), ServiceAccount: "web", Class: "secrets"}
	return p
}

// run publishes, republishes and unpublishes until ctx ends. It repeats a call that a kill
// interrupts, as kubelet does.
func (p *pod) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		p.begin(n)
		if !p.retry(ctx, p.publish) {
			return
		}
		p.set(true)
		p.published++
		for i := rand.IntN(16); i > 0 || p.longLived; i-- {
			pause(ctx, 300*time.Millisecond)
			if !p.retry(ctx, p.publish) {
				return
			}
		}
		p.set(false)
		if !p.retry(ctx, p.unpublish) {
			return
		}
	}
}

// begin starts the pod again with a new UID.
func (p *pod) begin(n int) {
	uid := fmt.Sprintf("%s-%d", p.Name, n)
	ref := issuer.PodRef{Namespace: "shop", Pod: p.Name, PodUID: uid, ServiceAccount: "web"}
	p.mounted.Lock()
	defer p.mounted.Unlock()
	p.UID, p.Tokens = uid, p.env.issuer.CSITokens(ref, "vault")
	p.since = time.Now()
}

// waitsTooLong reports whether the pod has waited for its volume, or for new content, longer than a due
// lease can wait.
func (p *pod) waitsTooLong() bool {
	p.mounted.RLock()
	defer p.mounted.RUnlock()
	since := p.since
	if p.up {
		next, rotated := p.env.rotated.Load(int(p.generation.Load()) + 1)
		if !rotated {
			return false
		}
		since = next.(time.Time)
	}
	return time.Since(since) > leaseGrace
}

func (p *pod) set(up bool) {
	p.mounted.Lock()
	defer p.mounted.Unlock()
	p.up, p.since = up, time.Now()
}

func (p *pod) publish(ctx context.Context) error   { return p.env.Publish(ctx, p.Pod) }
func (p *pod) unpublish(ctx context.Context) error { return p.env.Unpublish(ctx, p.Pod) }

// retry calls until it succeeds. The driver is down part of the time.
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

func (p *pod) end() {
	p.set(false)
	if !p.retry(p.env.t.Context(), p.unpublish) {
		p.env.t.Error("the last unpublish failed")
	}
}

// read reads the mounted volume in a loop, as a container would.
func (p *pod) read(ctx context.Context) {
	for ctx.Err() == nil {
		p.mounted.RLock()
		if p.up {
			p.checkFiles()
		}
		p.mounted.RUnlock()
		pause(ctx, 10*time.Millisecond)
	}
}

func (p *pod) checkFiles() {
	got, err := readPayload(p.env.Target(p.Pod))
	if err != nil {
		p.env.t.Errorf("pod %s read %v", p.UID, err)
		return
	}
	if password, seen := p.users[got.user]; seen && password != got.password {
		p.env.t.Errorf("pod %s read a mix: one database user with two passwords", p.UID)
	}
	p.users[got.user], p.certificates[got.certificate] = got.password, true
	p.generation.Store(int64(got.generation))
	p.reads.Add(1)
}

// logIn logs in to the database with the pair in the files, and reports whether the volume was mounted.
func (p *pod) logIn() bool {
	p.mounted.RLock()
	defer p.mounted.RUnlock()
	if !p.up {
		return false
	}
	got, err := readPayload(p.env.Target(p.Pod))
	if err != nil {
		p.env.t.Errorf("pod %s read %v", p.UID, err)
		return false
	}
	if !p.env.postgres.LogsIn(p.env.t, got.user, got.password) {
		p.env.t.Errorf("the database refuses %s, which is in the files of pod %s", got.user, p.UID)
	}
	return true
}

// payload is a reader's view of a volume.
type payload struct {
	generation                  int
	certificate, user, password string
}

// readPayload reads one payload through one open directory, as docs/classes.md says. It must be
// complete, of one generation, with a key that matches its certificate, and not expired. Only the
// database can tell whether name and password belong together.
func readPayload(target string) (payload, error) {
	files, err := readFiles(target, []string{"a", "b", "tls/crt", "tls/key", "db/user", "db/password"}, "sometimes", "more/sometimes")
	if err != nil {
		return payload{}, err
	}
	if files["sometimes"] != files["more/sometimes"] {
		return payload{}, fmt.Errorf("a mix: sometimes is %q at the top and %q in its directory", files["sometimes"], files["more/sometimes"])
	}
	generation, err := strconv.Atoi(files["a"])
	if err != nil || files["a"] != files["b"] {
		return payload{}, fmt.Errorf("a mix: a is of generation %q, b of %q", files["a"], files["b"])
	}
	pair, err := tls.X509KeyPair([]byte(files["tls/crt"]), []byte(files["tls/key"]))
	if err != nil {
		return payload{}, fmt.Errorf("a certificate without its key: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err == nil && time.Now().After(leaf.NotAfter) {
		err = errors.New("an expired certificate")
	}
	return payload{generation, files["tls/crt"], files["db/user"], files["db/password"]}, err
}

// readFiles reads the files of one payload, of which some may be missing.
func readFiles(target string, names []string, optional ...string) (map[string]string, error) {
	dir, err := unix.Open(filepath.Join(target, "..data"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("no payload: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	files := map[string]string{}
	for _, name := range append(names, optional...) {
		contents, err := readAt(dir, name)
		if errors.Is(err, unix.ENOENT) && slices.Contains(optional, name) {
			continue
		}
		if err == nil && len(contents) == 0 {
			err = errors.New("is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[name] = string(contents)
	}
	return files, nil
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
