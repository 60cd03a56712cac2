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

// pod comes and goes, as kubelet's retries make it.
type pod struct {
	kubelet.Pod
	w         *world
	stays     bool
	published int
	reads     atomic.Int64
	// users are the passwords that were seen by database user, and
	// certificates those that were seen. Both are the reader's alone.
	users        map[string]string
	certificates map[string]bool
	// mounted is locked by readers while they read, and by kubelet while it unpublishes the volume.
	mounted sync.RWMutex
	up      bool
	// since is when it began to wait for its volume, and generation the newest
	// that its reader has seen in it.
	since      time.Time
	generation atomic.Int64
}

func (w *world) newPod(i int) *pod {
	p := &pod{w: w, stays: i < staying, users: map[string]string{}, certificates: map[string]bool{}}
	p.Pod = kubelet.Pod{Namespace: "shop", Name: fmt.Sprintf("web-%d", i), ServiceAccount: "web", Class: "secrets"}
	return p
}

// live publishes, republishes and unpublishes until ctx ends. It repeats a call that a kill
// interrupts, as kubelet does.
func (p *pod) live(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		p.begin(n)
		if !p.retry(ctx, p.publish) {
			return
		}
		p.set(true)
		p.published++
		for i := rand.IntN(16); i > 0 || p.stays; i-- {
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
	p.UID, p.Tokens = uid, p.w.issuer.CSITokens(ref, "vault")
	p.since = time.Now()
}

// starves reports whether the pod has waited for its volume, or for new content, for as long as a
// due lease can wait.
func (p *pod) starves() bool {
	p.mounted.RLock()
	defer p.mounted.RUnlock()
	since := p.since
	if p.up {
		next, rotated := p.w.rotated.Load(int(p.generation.Load()) + 1)
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

// end unpublishes the volume.
func (p *pod) end() {
	p.set(false)
	if !p.retry(p.w.t.Context(), p.unpublish) {
		p.w.t.Error("the last unpublish never worked")
	}
}

// read reads the volume as a container would, all the time.
func (p *pod) read(ctx context.Context) {
	for ctx.Err() == nil {
		p.mounted.RLock()
		if p.up {
			p.look()
		}
		p.mounted.RUnlock()
		pause(ctx, 10*time.Millisecond)
	}
}

func (p *pod) look() {
	got, err := readPayload(p.w.Target(p.Pod))
	if err != nil {
		p.w.t.Errorf("pod %s read %v", p.UID, err)
		return
	}
	if password, seen := p.users[got.user]; seen && password != got.password {
		p.w.t.Errorf("pod %s read a mix: one database user with two passwords", p.UID)
	}
	p.users[got.user], p.certificates[got.certificate] = got.password, true
	p.generation.Store(int64(got.generation))
	p.reads.Add(1)
}

// logIn proves the pair in the files by a login, and reports whether it made one.
func (p *pod) logIn() bool {
	p.mounted.RLock()
	defer p.mounted.RUnlock()
	if !p.up {
		return false
	}
	got, err := readPayload(p.w.Target(p.Pod))
	if err != nil {
		p.w.t.Errorf("pod %s read %v", p.UID, err)
		return false
	}
	if !p.w.postgres.LogsIn(p.w.t, got.user, got.password) {
		p.w.t.Errorf("the database refuses %s, which is in the files of pod %s", got.user, p.UID)
	}
	return true
}
