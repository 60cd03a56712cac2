package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Group may connect besides root; empty for no group.
type Socket struct {
	Path string
	// Group may connect beside root; empty for nobody.
	Group string
}

// Listener is a listening socket. Close removes the socket file, if it is still this listener's.
type Listener struct {
	*net.UnixListener
	path string
	own  fs.FileInfo
}

// There reports whether the socket file is still this listener's.
func (l *Listener) There() bool {
	now, err := os.Lstat(l.path)
	return err == nil && os.SameFile(now, l.own)
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	if l.There() {
		_ = os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// Listen creates the socket, in a directory that no other user can write to. It replaces the socket
// of a dead process, but neither that of a living process nor any other file.
func (s Socket) Listen() (*Listener, error) {
	gid := -1
	if s.Group != "" {
		var err error
		if gid, err = groupID(s.Group); err != nil {
			return nil, fmt.Errorf("--socket-group: %w", err)
		}
	}
	if err := s.makeDir(gid); err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	if err := removeStale(s.Path); err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: s.Path})
	if err != nil {
		return nil, fmt.Errorf("--listen: listening on the socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	own, err := s.close(gid)
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("--listen: %w", err)
	}
	return &Listener{l, s.Path, own}, nil
}

// close closes the socket to other users.
func (s Socket) close(gid int) (fs.FileInfo, error) {
	mode := fs.FileMode(0o600)
	if gid >= 0 {
		mode = 0o660
		if err := os.Chown(s.Path, -1, gid); err != nil {
			return nil, fmt.Errorf("giving the socket to the group: %w", err)
		}
	}
	if err := os.Chmod(s.Path, mode); err != nil {
		return nil, fmt.Errorf("closing the socket to others: %w", err)
	}
	return os.Lstat(s.Path)
}

func groupID(group string) (int, error) {
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("there is no group %q on this node", group)
	}
	return strconv.Atoi(g.Gid)
}

// makeDir creates the directory for this user and the group only. In an existing one other users
// may list files, but not write.
func (s Socket) makeDir(gid int) error {
	dir := filepath.Dir(s.Path)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // what is above holds nothing
		return fmt.Errorf("making the directory above the socket's: %w", err)
	}
	if err := os.Mkdir(dir, privateDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the socket's directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("looking at the socket's directory: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others can write to the directory %s (mode %s), and could put a socket of their own there: take that right away, or name another directory", dir, info.Mode().Perm())
	case !ok || stat.Uid != uint32(os.Geteuid()) && stat.Uid != 0: //nolint:gosec // a user id
		return fmt.Errorf("the directory %s belongs to another user, who could put a socket of their own there", dir)
	}
	if gid >= 0 && info.Mode().Perm() == privateDir {
		return openDir(dir, gid)
	}
	return nil
}

const privateDir = 0o700

// openDir lets the group enter a directory.
func openDir(dir string, gid int) error {
	if err := os.Chown(dir, -1, gid); err != nil {
		return fmt.Errorf("giving the socket's directory to the group: %w", err)
	}
	if err := os.Chmod(dir, 0o750); err != nil { //nolint:gosec // the group may enter
		return fmt.Errorf("opening the socket's directory to the group: %w", err)
	}
	return nil
}

const dialTimeout = time.Second

// removeStale removes a socket without a listening process.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at the socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way of the socket and is none (%s): remove it, or name another path", path, info.Mode())
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("another process serves the socket %s: stop it first", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing a dead process's socket: %w", err)
		}
		return nil
	}
	return fmt.Errorf("finding out whether another process serves the socket %s: %w", path, err)
}
