package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

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
