package tmpfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
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

// mountinfo is the text of /proc/self/mountinfo (proc_pid_mountinfo(5)). A look-up parses only the
// lines that it needs.
//
// k8s.io/mount-utils has a parser for the whole file, which the tests compare this one with. It
// does not fit here: it fails as a whole when one line on the node is odd (a mount point with a
// no-break space in its name, a mount without a source), leaves escapes as they are, and takes
// longer the more mounts the node has.
type mountinfo []byte

func (t mountinfo) lookup(id uint64) (record, error) {
	prefix := strconv.AppendUint([]byte{'\n'}, id, 10)
	prefix = append(prefix, ' ')
	rest, found := bytes.CutPrefix(t, prefix[1:])
	if !found {
		_, rest, found = bytes.Cut(t, prefix)
	}
	if !found {
		return record{}, errVanished
	}
	line, _, _ := bytes.Cut(rest, []byte{'\n'})
	r, err := parseMount(string(line))
	if err != nil {
		return record{}, fmt.Errorf("parsing mount %d in %s: %w", id, mountinfoPath, err)
	}
	return r, nil
}

var errFields = errors.New("too few fields")

// parseMount parses a line without its first field. A lone hyphen ends the optional fields.
func parseMount(line string) (record, error) {
	before, after, found := strings.Cut(line, " - ")
	if !found {
		return record{}, fmt.Errorf("%w: no hyphen", errFields)
	}
	mounted := strings.Split(before, " ")
	system := strings.Split(after, " ")
	if len(mounted) < 5 || len(system) < 3 {
		return record{}, errFields
	}
	return record{
		root:         unescape(mounted[2]),
		mountOptions: splitOptions(mounted[4]),
		fsType:       unescape(system[0]),
		source:       unescape(system[1]),
		fsOpts:       splitOptions(system[2]),
	}, nil
}

// unescape undoes the kernel's octal escapes (\040 for a space). Anything else
// after a backslash stays as it is.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// splitOptions splits at commas, except within double quotes, which enclose an SELinux context.
func splitOptions(s string) []string {
	quoted := false
	options := strings.FieldsFunc(s, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return c == ',' && !quoted
	})
	for i, option := range options {
		options[i] = unescape(option)
	}
	return options
}
