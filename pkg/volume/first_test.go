package volume_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// watchedMounts counts mounts, and can delay them or have them fail.
type watchedMounts struct {
	target.Mounts
	begun chan struct{} // closed when the first begins
	goOn  chan struct{} // all wait for it
	made  chan struct{} // closed when the first is made
	spoil func() error

	mu    sync.Mutex
	count int
}

func watch(r *rig) *watchedMounts {
	m := &watchedMounts{Mounts: r.Mounts, begun: make(chan struct{}), goOn: make(chan struct{}), made: make(chan struct{})}
	r.Mounts = m
	return m
}

func (m *watchedMounts) Mount(target string, o tmpfs.Options) error {
	m.mu.Lock()
	m.count++
	first := m.count == 1
	m.mu.Unlock()
	if first {
		close(m.begun)
	}
	<-m.goOn
	if m.spoil != nil {
		if err := m.spoil(); err != nil {
			return err
		}
	}
	err := m.Mounts.Mount(target, o)
	if first && err == nil {
		close(m.made)
	}
	return err
}

func (m *watchedMounts) mounts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

// TestMountsWhileTheStoreIsAsked: the store does not answer before the volume
// is mounted, which is done once.
func TestMountsWhileTheStoreIsAsked(t *testing.T) {
	r := newRig(t)
	m := watch(r)
	close(m.goOn)
	r.store.gate = m.made
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req := r.request("a")
	testkit.Must(t, r.Publish(ctx, req))
	r.wantFile(req, "password", "one")
	if n := m.mounts(); n != 1 {
		t.Errorf("%d mounts", n)
	}
}

// TestNoMountIsLeft: the store refuses while the volume is being mounted, and
// either may be done first.
func TestNoMountIsLeft(t *testing.T) {
	for range 30 {
		r := newRig(t)
		m := watch(r)
		r.store.fail, r.store.gate = fault.New(fault.Denied, "no"), m.begun
		go func() {
			<-m.begun
			close(m.goOn)
		}()
		req := r.request("a")
		wantReason(t, r.Publish(t.Context(), req), fault.Denied)
		r.wantNoTarget(req)
	}
}

// TestRefusedAtOnce: if the store refuses before the mount has begun, the driver does not mount.
func TestRefusedAtOnce(t *testing.T) {
	r := newRig(t)
	r.store.fail = fault.New(fault.Denied, "no")
	var all []volume.Request
	for i := range 100 {
		all = append(all, r.request(fmt.Sprintf("a%d", i)))
		wantReason(t, r.Publish(t.Context(), all[i]), fault.Denied)
	}
	for _, req := range all {
		r.wantNoTarget(req)
	}
}

// TestMountThatFails: the driver reports the mount's error once the store has answered, and releases
// what the store issued.
func TestMountThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func() error
		want  fault.Reason
	}{
		"an error": {func() error { return errors.New("no such luck") }, fault.Mount},
		"a panic":  {func() error { panic("a defect") }, fault.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			m := watch(r)
			close(m.goOn)
			m.spoil = c.spoil
			r.store.state = "a credential"
			r.background()
			req := r.request("a")
			wantReason(t, r.Publish(t.Context(), req), c.want)
			testkit.Eventually(t, "what the store gave is let go", func() bool { return r.store.releases() > 0 })
		})
	}
}
