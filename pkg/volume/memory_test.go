package volume_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// newSmallRig has a budget for the contents of about six volumes of 100 KiB, of
// which a namespace may have four.
func newSmallRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.limits = budget.Limits{Node: 1600 << 10, Namespace: 1200 << 10, Volume: 700 << 10}
	r.restart()
	r.fill(100 << 10)
	return r
}

// fill has the store give one file of so many bytes.
func (r *rig) fill(bytes int) {
	r.store.set(func(s *fakeStore) { s.files = map[string]string{"password": strings.Repeat("x", bytes)} })
}

func (r *rig) contents() int64 { return r.budget.Usage().ByKind[budget.Contents] }

// One tenant's volumes are refused with the budget's error before the node is
// full; another tenant's are published and refreshed, and every unpublish works.
func TestContentsHaveABudget(t *testing.T) {
	r := newSmallRig(t)
	n, err := r.manyPublishes("evil", 50)
	testkit.Fails(t, err, fault.Exhausted, "namespace evil", "--namespace-memory-limit", "SecretProviderClass evil/secrets")
	if n < 3 || n > 5 {
		t.Errorf("%d volumes of one tenant, want about four", n)
	}
	if n, err := r.manyPublishes("good", 2); err != nil {
		t.Fatalf("after %d volumes of another tenant: %v", n, err)
	}
	_, err = r.manyPublishes("third", 1)
	testkit.Fails(t, err, fault.Exhausted, "memory of the node", "--memory-budget")
	fetches := r.store.count()
	r.background()
	r.fill(100<<10 - 1) // every volume changes, and each has the room for it
	r.RefreshAll()
	testkit.Eventually(t, "all are refreshed", func() bool { return r.seen.count(volume.Refreshed, false) == n+2 })
	if failed := r.seen.count(volume.Refreshed, true); failed > 0 || r.store.count() != fetches+n+2 {
		t.Errorf("%d refreshes failed, %d fetches", failed, r.store.count()-fetches)
	}
	for i := range n {
		req := r.request(fmt.Sprint("evil-", i))
		testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
		r.wantNoTarget(req)
	}
	if n, err := r.manyPublishes("third", 3); err != nil {
		t.Errorf("after the room is free again, %d volumes and %v", n, err)
	}
}

// The driver does not fetch for a class that is known not to fit.
func TestNoFetchWithoutRoom(t *testing.T) {
	r := newSmallRig(t)
	if _, err := r.manyPublishes("evil", 50); err == nil {
		t.Fatal("no volume was refused")
	}
	before := r.store.count()
	for i := range 10 {
		req := r.request(fmt.Sprint("evil-more-", i))
		req.Pod.Namespace, req.Class.Namespace = "evil", "evil"
		testkit.Fails(t, r.Publish(t.Context(), req), fault.Exhausted)
		r.wantNoTarget(req)
	}
	if n := r.store.count() - before; n > 0 {
		t.Errorf("%d fetches for volumes that have no room", n)
	}
	used := r.contents()
	if used > 1200<<10 {
		t.Errorf("refused volumes are charged: %d bytes", used)
	}
}

// A volume whose payload grows beyond what there is keeps its last good content,
// and its charge.
func TestGrowthBeyondTheBudget(t *testing.T) {
	r := newSmallRig(t)
	req := r.request("a")
	r.publish(req)
	before := r.contents()
	r.background()
	r.fill(500 << 10)
	o := r.refreshNow()
	testkit.Fails(t, o.Err, fault.TooLarge, "--volume-memory-limit")
	r.wantFile(req, "password", strings.Repeat("x", 100<<10))
	testkit.Equal(t, "bytes charged after a refused write", r.contents(), before)
	r.fill(10 << 10)
	if o := r.refreshNow(); o.Err != nil {
		t.Fatal(o.Err)
	}
	if now := r.contents(); now < 110<<10 || now >= before {
		t.Errorf("%d bytes are charged for a payload of 10 KiB beside one of 100 KiB, %d before", now, before)
	}
	if r.refreshNow(); r.contents() > 100<<10 {
		t.Errorf("%d bytes are charged for 10 KiB after the payload before is gone", r.contents())
	}
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Equal(t, "bytes are charged for nothing", r.contents(), 0)
}

// A driver that starts beyond its limits keeps live volumes, accepts unpublishes, refuses new volumes,
// and accepts them once there is room.
func TestRestartWhenFull(t *testing.T) {
	r := newSmallRig(t)
	n, _ := r.manyPublishes("evil", 50)
	used := r.contents()
	r.limits = budget.Limits{Node: 300 << 10}
	r.restart()
	if r.Count() != n || r.contents() < used {
		t.Fatalf("%d volumes with %d bytes, want %d with %d", r.Count(), r.contents(), n, used)
	}
	testkit.Failure(r.manyPublishes("good", 1))(t, fault.Exhausted)
	if _, err := r.manyPublishes("evil", n); err != nil {
		t.Errorf("a republish of a live volume: %v", err)
	}
	r.background()
	r.fill(90 << 10)
	r.RefreshAll()
	testkit.Eventually(t, "all are refreshed", func() bool { return r.seen.count(volume.Refreshed, false) == n })
	for i := range n {
		req := r.request(fmt.Sprint("evil-", i))
		r.wantFile(req, "password", strings.Repeat("x", 90<<10))
		testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	}
	if _, err := r.manyPublishes("good", 1); err != nil {
		t.Error(err)
	}
}

// The driver measures volumes whose record has no size.
func TestContentsAreMeasuredAtTheStart(t *testing.T) {
	r := newSmallRig(t)
	req := r.request("a")
	r.publish(req)
	rec := r.onlyRecord()
	rec.Size = 0
	s := newDirStore(t, r.stateDir, new(bytes.Buffer))
	testkit.Must(t, s.Put(rec))
	r.restart()
	if used := r.contents(); used < 200<<10 || used > 400<<10 {
		t.Errorf("%d bytes are charged for 100 KiB", used)
	}
	testkit.Must(t, unix.Unmount(req.Target, unix.MNT_DETACH))
	r.restart()
	testkit.Equal(t, "bytes charged for a volume that is not mounted", r.contents(), 0)
}

// Files of one byte, links and long names take memory too.
func TestSmallFilesAreCharged(t *testing.T) {
	r := newRig(t)
	few := func(name string) int64 {
		r.store.set(func(s *fakeStore) {
			s.files = map[string]string{}
			for i := range 20 {
				s.files[fmt.Sprintf(name, i)] = "x"
			}
		})
		req := r.request("a")
		r.publish(req)
		defer func() { testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target)) }()
		return r.contents()
	}
	flat := few("%d")
	if flat < 2*20*4096 {
		t.Errorf("%d bytes for twenty files of a page each", flat)
	}
	if deep := few("%d/a/b"); deep < flat+2*40*1024 {
		t.Errorf("%d bytes for files in two directories each, %d without", deep, flat)
	}
	if long := few("%d" + strings.Repeat("n", 250)); long < flat+2*2*20*250 {
		t.Errorf("%d bytes with long names, %d with short", long, flat)
	}
}

// A class that asks for more than the operator's ceilings: the driver refuses a new volume, with the
// field and the flag, and continues a live one within the ceilings.
func TestCeilings(t *testing.T) {
	r := newRig(t)
	r.ceilings = func(c *volume.Config) { c.MaxSizeLimit, c.MaxInodeLimit, c.MinInterval = 1000, 20, 5*time.Second }
	live := r.request("live")
	r.classes.class.SizeLimit, r.classes.class.InodeLimit, r.classes.class.RefreshInterval = 4096, 100, time.Second
	r.publish(live)
	r.restart()
	r.background()
	if o := r.refreshNow(); o.Err != nil || time.Until(o.NextAt) < 4*time.Second {
		t.Errorf("a live volume is refreshed with %v and again at %s", o.Err, o.NextAt)
	}
	r.fill(1001)
	testkit.Fails(t, r.refreshNow().Err, fault.TooLarge, "the volume's limit is 1000", "--max-volume-size-limit")
	r.wantFile(live, "password", "one")
	r.fill(1000)
	testkit.Fails(t, r.Publish(t.Context(), r.request("size")), fault.NotAllowed, "spec.parameters.volumeSizeLimit", "--max-volume-size-limit")
	r.classes.edit(func(c *class.Class) { c.SizeLimit = 0 })
	testkit.Fails(t, r.Publish(t.Context(), r.request("inodes")), fault.NotAllowed, "spec.parameters.volumeInodeLimit", "--max-volume-inode-limit")
	r.classes.edit(func(c *class.Class) { c.InodeLimit = 20 })
	r.publish(r.request("good"))
}
