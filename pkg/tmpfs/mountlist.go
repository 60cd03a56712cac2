package tmpfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const mountinfoPath = "/proc/self/mountinfo"

// mountList caches the text of /proc/self/mountinfo and reads it again only after the kernel
// reports a change to a mount. The kernel writes the whole list for each read, so without the cache
// a republish would take longer the more mounts the node has. The zero value is ready for use.
type mountList struct {
	mu   sync.Mutex
	file *os.File
	text mountinfo
}

// current returns the present list. Callers must not change it.
func (l *mountList) current() (mountinfo, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("opening the list of mounts: %w", err)
	}
	// Polling resets the kernel's mark, so it comes before the read: the next poll then reports a
	// change in between.
	if !l.changed() && l.text != nil {
		return l.text, nil
	}
	text, err := l.read()
	l.text = text
	if err != nil {
		return nil, fmt.Errorf("reading the list of mounts: %w", err)
	}
	return text, nil
}

// forget makes the next current read the list again. It is for changes that the kernel does not
// report: new limits of a file system are no change to a mount.
func (l *mountList) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
}

// open does not use os.Open: the runtime's poller would watch the file, and its polls would reset
// the mark before changed can see it.
func (l *mountList) open() error {
	if l.file != nil {
		return nil
	}
	fd, err := unix.Open(mountinfoPath, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	l.file = os.NewFile(uintptr(fd), mountinfoPath)
	return nil
}

// changed polls as proc_pid_mounts(5) describes: POLLPRI and POLLERR are set if a mount came or
// went since the last poll.
func (l *mountList) changed() bool {
	question := []unix.PollFd{{Fd: int32(l.file.Fd()), Events: unix.POLLPRI}}
	_, err := unix.Poll(question, 0)
	return err != nil || question[0].Revents != 0
}

func (l *mountList) read() (mountinfo, error) {
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	text.Grow(len(l.text) + 4096)
	if _, err := text.ReadFrom(l.file); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}
