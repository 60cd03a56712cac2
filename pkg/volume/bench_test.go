package volume_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/pkg/volume/statedir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// quietRig is a rig without the logs of a test.
func quietRig(b *testing.B) *rig {
	b.Helper()
	r := &rig{stateDir: b.TempDir(), podsDir: b.TempDir(), classes: newClasses(), store: newFakeStore(), seen: &observer{}}
	mounts, err := tmpfs.New()
	if err != nil {
		b.Skip(err)
	}
	log := slog.New(slog.DiscardHandler)
	store := testkit.Value(statedir.New(r.stateDir, log))(b)
	r.Manager, err = volume.New(volume.Config{
		Classes: r.classes, Providers: provider.Registry{"fake": r.store}, Renderer: rendered.New(nil), Mounts: mounts, Store: store, Observer: volume.Observers{}, Logger: log,
		Limits: limits.Limits{Interval: time.Hour, SizeLimit: 1 << 20, InodeLimit: 64}, Workers: 4, RefreshTimeout: 10 * time.Second, ReleaseTimeout: 5 * time.Second,
	})
	testkit.Must(b, err)
	b.Cleanup(r.unmountAll)
	return r
}

// BenchmarkPublish is the driver's own part of a first publish and its
// unpublish, without a store.
func BenchmarkPublish(b *testing.B) {
	r := quietRig(b)
	r.store.files["user"] = "name"
	for i := 0; b.Loop(); i++ {
		req := benchRequest(b, r, fmt.Sprintf("p%d", i))
		testkit.Must(b, r.Publish(b.Context(), req))
		testkit.Must(b, r.Unpublish(b.Context(), req.ID, req.Target))
	}
}

// BenchmarkRepublish is kubelet's repeated call with nothing due.
func BenchmarkRepublish(b *testing.B) {
	r := quietRig(b)
	req := benchRequest(b, r, "p")
	testkit.Must(b, r.Publish(b.Context(), req))
	for b.Loop() {
		testkit.Must(b, r.Publish(b.Context(), req))
	}
}
