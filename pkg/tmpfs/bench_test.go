package tmpfs

import (
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func BenchmarkInspect(b *testing.B) {
	m := newMounter(b)
	target := newTarget(b)
	b.Run("directory", func(b *testing.B) { benchInspect(b, m, target) })
	mustMount(b, m, target, small())
	b.Run("mounted", func(b *testing.B) { benchInspect(b, m, target) })
}

func benchInspect(b *testing.B, m *Mounter, target string) {
	b.ReportAllocs()
	for b.Loop() {
		testkit.Value(m.Inspect(target))(b)
	}
}

// BenchmarkInspectMountinfo measures an inspection of a mounted target on kernels before 6.13, on a
// node with many mounts.
func BenchmarkInspectMountinfo(b *testing.B) {
	m := newMounter(b)
	dir := newDir(b)
	for mounts := 1; mounts <= 90; mounts++ {
		target := filepath.Join(dir, fmt.Sprintf("kubelet-pods-0b6f2f1e-volumes-kubernetes.io~csi-%d", mounts))
		mkdir(b, target)
		mustMount(b, m, target, small())
		if mounts%45 != 0 {
			continue
		}
		b.Run(fmt.Sprint(mounts), func(b *testing.B) {
			benchMountinfo(b, target, func(*mountList) {})
		})
		b.Run(fmt.Sprintf("%d/changed", mounts), func(b *testing.B) {
			benchMountinfo(b, target, (*mountList).forget)
		})
	}
}

func benchMountinfo(b *testing.B, target string, prepare func(*mountList)) {
	at := location{fd: unix.AT_FDCWD, path: target}
	var list mountList
	for b.Loop() {
		prepare(&list)
		n := testkit.Value(at.listedNode())(b)
		table := testkit.Value(list.current())(b)
		var info Info
		if err := info.fill(table, n.mount); err != nil || !info.Ours {
			b.Fatal(err)
		}
	}
}

func BenchmarkMountUnmount(b *testing.B) {
	m := newMounter(b)
	target := newTarget(b)
	b.ReportAllocs()
	for b.Loop() {
		testkit.Must(b, m.Mount(target, small()))
		testkit.Must(b, m.Unmount(target))
	}
}
