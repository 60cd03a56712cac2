package providertest

import (
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// HangingFileSystem mounts a file system whose server never answers, as NFS
// without its server does. Its end fails all calls that hang in it; the end of
// the test ends it too.
func HangingFileSystem(t testing.TB) (dir string, end func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	dir = t.TempDir()
	options := "fd=" + strconv.Itoa(fd) + ",rootmode=40000,user_id=0,group_id=0"
	if err := unix.Mount("hanging", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		t.Skipf("no FUSE mount here: %v", err)
	}
	end = sync.OnceFunc(func() {
		_ = unix.Close(fd)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	t.Cleanup(end)
	return dir, end
}
