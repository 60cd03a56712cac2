package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume/statedir"
)

// DefaultStateSize is the size of the state's tmpfs in bytes: a node runs a few hundred volumes at
// most, and each has one record.
const (
	DefaultStateSize = 64 << 20
	minStateSize     = 1 << 20
)

// state is the open root of the state's tmpfs. While it is open, only this process uses the state.
// The driver writes everything relative to it, so that after an unmount nothing reaches the disk
// below.
type state struct {
	root *os.File
	end  *os.File // of the audit trail; nil without one
}

// openState mounts the state's tmpfs, accessible to root alone, and locks it. The mount outlives
// this process and its container, as the volumes do, and a reboot removes both. The mount of an
// earlier driver is resized. openState waits up to wait for another process to unlock the state.
func openState(dir string, size int64, m *tmpfs.Mounter, wait time.Duration, log *slog.Logger) (*state, error) {
	if err := mountState(dir, size, m, log); err != nil {
		return nil, err
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the state directory: %w", err)
	}
	s := &state{root: root}
	if err := s.checkMemory(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if err := s.lock(wait, log); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

func mountState(dir string, size int64, m *tmpfs.Mounter, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the state directory: %w", err)
	}
	inodes := size / statedir.Unit
	err := m.Mount(dir, tmpfs.Options{Size: size, Inodes: inodes, Mode: 0o700})
	if taken, ok := errors.AsType[*tmpfs.ConflictError](err); ok {
		if taken.Info.FSType != "tmpfs" {
			return fmt.Errorf("the state directory %q is on %s from %q: it must be a tmpfs, because nothing secret may reach a disk; give another --state-dir", dir, taken.Info.FSType, taken.Info.Source)
		}
		if err = nil; taken.Info.Ours {
			if err := m.Resize(dir, size, inodes); err != nil {
				log.Warn("the size of the state's tmpfs could not be changed", logkey.Dir, dir, logkey.Error, err)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("mounting the state directory: %w", err)
	}
	return nil
}

// checkMemory checks the open directory, because the path may have led elsewhere a moment ago.
func (s *state) checkMemory() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.root.Fd()), &st); err != nil {
		return fmt.Errorf("reading the file system of the state directory %q: %w", s.root.Name(), err)
	}
	if st.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("the tmpfs of the state directory %q was unmounted while the driver started: nothing secret may reach a disk", s.root.Name())
	}
	return nil
}

// lockEvery is the pause between two attempts to lock the state.
const lockEvery = 50 * time.Millisecond

// lock locks the state for this process, before it reads anything in it or changes any volume. In a
// rolling update the previous process may still be finishing calls. The kernel releases the lock
// when the process ends for any reason.
func (s *state) lock(wait time.Duration, log *slog.Logger) error {
	dir, deadline := s.root.Name(), time.Now().Add(wait)
	for told := false; ; told = true {
		err := unix.Flock(int(s.root.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err == unix.EINTR:
			continue
		case err != unix.EWOULDBLOCK:
			return fmt.Errorf("locking the state directory %q: %w", dir, err)
		case time.Now().After(deadline):
			return fmt.Errorf("the state directory %q is in use by another mayfly-node process, which did not end within %s: two drivers cannot share a node's state; stop the other one, or give this one another --driver-name, --endpoint and --state-dir", dir, wait)
		case !told:
			log.Info("waiting for another mayfly-node process to release the state directory", logkey.StateDir, dir, logkey.AtMost, wait)
		}
		time.Sleep(lockEvery)
	}
}

// close unlocks the state for the next process.
func (s *state) close() error {
	var err error
	if s.end != nil {
		err = s.end.Close()
	}
	return errors.Join(err, s.root.Close())
}

// records opens the directory of the volumes' records.
func (s *state) records(b *budget.Budget, log *slog.Logger) (*statedir.Store, error) {
	const name = "volumes"
	if err := unix.Mkdirat(int(s.root.Fd()), name, 0o700); err != nil && err != unix.EEXIST {
		return nil, fmt.Errorf("creating %q in the state directory %q: %w", name, s.root.Name(), err)
	}
	dir, err := s.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	store := statedir.Open(dir, log)
	store.Boot = clock.SinceBoot
	store.Charge(b)
	return store, nil
}

func (s *state) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(s.root.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening %q in the state directory %q: %w", name, s.root.Name(), err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(s.root.Name(), name)), nil
}

// auditEnd keeps the end of the audit trail's chain of lines over a restart. It
// implements sink.Memory, and is used once the state is open.
type auditEnd struct{ n *Node }

const auditEndFile = "audit.end"

// Load implements sink.Memory.
func (a auditEnd) Load() (chain.Head, bool, error) {
	s := a.n.state
	if s.end == nil {
		f, err := s.open(auditEndFile, unix.O_RDWR|unix.O_CREAT)
		if err != nil {
			return chain.Head{}, false, err
		}
		s.end = f
	}
	text, err := io.ReadAll(io.NewSectionReader(s.end, 0, minStateSize))
	if err != nil || len(text) == 0 {
		return chain.Head{}, false, err
	}
	h, err := chain.DecodeHead(text)
	return h, err == nil, err
}

// Save implements sink.Memory: in one piece, over the last one.
func (a auditEnd) Save(h chain.Head) error {
	if a.n.state.end == nil {
		return errors.New("it could not be opened")
	}
	_, err := a.n.state.end.WriteAt(h.Encode(), 0)
	return err
}

const (
	identityKeySize = 32
	identityKeyFile = "identity.key"
)

// identityKey returns the key for hashing identities that have an access key. It lives as long as
// the volumes, so that they need no new login after a restart of the driver.
func (s *state) identityKey() (secret.Bytes, error) {
	f, err := s.open(identityKeyFile, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("keeping the identity key: %w", err)
	}
	defer func() { _ = f.Close() }()
	key := make([]byte, identityKeySize)
	if n, err := io.ReadFull(f, key); err == nil && n == identityKeySize {
		return secret.NewBytes(key), nil
	}
	if _, err := rand.Read(key); err != nil {
		return secret.Bytes{}, fmt.Errorf("making the identity key: %w", err)
	}
	if _, err := f.WriteAt(key, 0); err != nil {
		return secret.Bytes{}, fmt.Errorf("keeping the identity key: %w", err)
	}
	return secret.NewBytes(key), nil
}
