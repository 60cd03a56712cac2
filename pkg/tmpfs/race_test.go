package tmpfs

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestMountAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		errs := make([]error, 16)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { errs[i] = m.Mount(target, small()) })
		}
		group.Wait()
		mounted := 0
		for _, err := range errs {
			switch {
			case err == nil:
				mounted++
			case !errors.Is(err, ErrMounted):
				t.Error(err)
			}
		}
		if info := mustInspect(t, m, target); mounted != 1 || !info.Ours || depth(t, target) != 1 {
			t.Errorf("%d calls succeeded, %d mounts are stacked", mounted, depth(t, target))
		}
	})
}

// A target that becomes a symbolic link after it was opened must not lead the
// mount to where the link points.
func TestMountFollowsNoSwap(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		moved, victim := target+"-moved", target+"-victim"
		mkdir(t, victim)
		d, err := openDirectory(target)
		testkit.Must(t, err)
		defer d.close()
		testkit.Must(t, os.Rename(target, moved))
		testkit.Must(t, os.Symlink(victim, target))
		testkit.Must(t, m.mountAt(d, small()))
		if mustInspect(t, m, victim).Mounted {
			t.Error("the link's target was mounted on")
		}
		if !mustInspect(t, m, moved).Ours {
			t.Error("the directory that was opened is not the one mounted on")
		}
	})
}

// A mount that came after the directory was opened is seen all the same.
func TestMountSeesLaterMount(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		d, err := openDirectory(target)
		testkit.Must(t, err)
		defer d.close()
		mountBy(t, "other", target, "tmpfs", 0, "size=4k")
		if err := m.mountAt(d, small()); !errors.Is(err, ErrMounted) {
			t.Errorf("got %v, want ErrMounted", err)
		}
		if info := mustInspect(t, m, target); depth(t, target) != 1 || info.Source != "other" {
			t.Errorf("found %+v", info)
		}
	})
}

// A mount point that was opened stays one when its path leads elsewhere.
func TestMountRefusesMovedMountPoint(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := newDir(t)
		target := dir + "/old/mount"
		mkdir(t, target)
		mustMount(t, m, target, small())
		d, err := openDirectory(target)
		testkit.Must(t, err)
		defer d.close()
		testkit.Must(t, os.Rename(dir+"/old", dir+"/new"))
		if err := m.mountAt(d, small()); !errors.Is(err, ErrMounted) {
			t.Errorf("got %v, want ErrMounted", err)
		}
		if info := mustInspect(t, m, dir+"/new/mount"); !info.Ours || depth(t, dir+"/new/mount") != 1 {
			t.Errorf("found %+v", info)
		}
	})
}
