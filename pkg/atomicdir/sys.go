//go:build linux

package atomicdir

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	openDirFlags  = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	openReadFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	createFlags   = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC

	// A look-up cannot leave the payload: it follows no symlink and no "..", and enters no mount.
	resolveBeneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
)

// calls are the system calls that change a volume; nothing else does. Each takes a descriptor and
// a single name, never a path.
type calls struct {
	// hook is called before each of them. Tests make it fail or panic.
	hook func(op, name string) error
}

func (s *calls) before(op, name string) error {
	if s.hook == nil {
		return nil
	}
	return s.hook(op, name)
}

// mkdir makes a directory that only its owner can enter.
func (s *calls) mkdir(parent int, name string) error {
	if err := s.before("mkdir", name); err != nil {
		return err
	}
	return unix.Mkdirat(parent, name, 0o700)
}

func (s *calls) symlink(target string, parent int, name string) error {
	if err := s.before("symlink", name); err != nil {
		return err
	}
	return unix.Symlinkat(target, parent, name)
}

func (s *calls) rename(fromDir int, from string, toDir int, to string, flags uint) error {
	if err := s.before("rename", to); err != nil {
		return err
	}
	return unix.Renameat2(fromDir, from, toDir, to, flags)
}

func (s *calls) unlink(parent int, name string, flags int) error {
	if err := s.before("unlink", name); err != nil {
		return err
	}
	return unix.Unlinkat(parent, name, flags)
}

func (s *calls) create(parent int, name string) (int, error) {
	if err := s.before("create", name); err != nil {
		return -1, err
	}
	return retry(func() (int, error) { return unix.Openat(parent, name, createFlags, 0o600) })
}

func (s *calls) write(fd int, name string, b []byte) error {
	for len(b) > 0 {
		if err := s.before("write", name); err != nil {
			return err
		}
		n, err := retry(func() (int, error) { return unix.Write(fd, b) })
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// own sets the owners and mode of an open file. It sets the group first, so that another group never
// gets the group bits, and the user last: to change the mode of another user's file would need
// CAP_FOWNER. It sets the mode after the creation because the umask does not apply then.
func (s *calls) own(fd int, name string, n node) error {
	if err := s.chown(fd, name, -1, int(n.ids.gid)); err != nil {
		return fmt.Errorf("changing its group to %d: %w", n.ids.gid, err)
	}
	if err := s.before("chmod", name); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, n.mode); err != nil {
		return fmt.Errorf("changing its mode to %04o: %w", n.mode, err)
	}
	if n.ids.uid == uint32(os.Geteuid()) {
		return nil // as it was made
	}
	if err := s.chown(fd, name, int(n.ids.uid), -1); err != nil {
		return fmt.Errorf("changing its user to %d: %w", n.ids.uid, err)
	}
	return nil
}

// chown changes the ids that are not -1.
func (s *calls) chown(fd int, name string, uid, gid int) error {
	if err := s.before("chown", name); err != nil {
		return err
	}
	err := unix.Fchown(fd, uid, gid)
	if err == unix.EINVAL {
		return fmt.Errorf("the user namespace of this process has no such id: %w", err)
	}
	return err
}

// remove removes an entry, of any kind, and all below it, without following a symlink.
func (s *calls) remove(parent int, name string) error {
	err := s.unlink(parent, name, 0)
	if err != unix.EISDIR {
		return err
	}
	top, err := openDir(parent, name)
	if err != nil {
		return err
	}
	c := cursor{top: top}
	defer closeFD(top)
	defer c.close()
	if err := s.empty(&c, ""); err != nil {
		return err
	}
	return s.unlink(parent, name, unix.AT_REMOVEDIR)
}

func (s *calls) empty(c *cursor, dir string) error {
	fd, err := c.at(dir)
	if err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := s.unlink(fd, name, 0)
		if err == unix.EISDIR {
			if err = s.empty(c, join(dir, name)); err != nil {
				return err
			}
			if fd, err = c.at(dir); err != nil {
				return err
			}
			err = s.unlink(fd, name, unix.AT_REMOVEDIR)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cursor opens directories below top by their relative path and keeps the last one open. So a deep
// tree needs one descriptor, and a walk in tree order few look-ups.
type cursor struct {
	top int
	dir string // "" until something below top is open
	fd  int
}

func (c *cursor) at(dir string) (int, error) {
	if dir == "" {
		return c.top, nil
	}
	if dir == c.dir {
		return c.fd, nil
	}
	how := unix.OpenHow{Flags: openDirFlags, Resolve: resolveBeneath}
	fd, err := retry(func() (int, error) { return unix.Openat2(c.top, dir, &how) })
	if err != nil {
		return -1, err
	}
	c.set(dir, fd)
	return fd, nil
}

// set makes an open directory the current one.
func (c *cursor) set(dir string, fd int) {
	c.close()
	c.dir, c.fd = dir, fd
}

func (c *cursor) close() {
	if c.dir != "" {
		closeFD(c.fd)
		c.dir = ""
	}
}

func openDir(parent int, name string) (int, error) {
	return retry(func() (int, error) { return unix.Openat(parent, name, openDirFlags, 0) })
}

// closeFD drops the error: the data is in memory, and a failed close still releases the descriptor.
func closeFD(fd int) { _ = unix.Close(fd) }

// readNames lists a directory from its start, sorted.
func readNames(fd int) ([]string, error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	var buf [4096]byte
	var names []string
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, buf[:]) })
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			slices.Sort(names)
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
