//go:build linux

package atomicdir

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dataName = "..data"
	dataTmp  = "..data_tmp"
	linksTmp = "..links_tmp"
)

// survey is the state of the directory before a Write.
type survey struct {
	dir       *Dir
	live      payload
	leftovers []string // of an interrupted Write
	absent    []string // wanted links that do not exist
	wrong     []string // wanted links that lead elsewhere
	stray     []string // links below ..data that are not wanted
}

// first reports whether the directory has no payload, and no link where one belongs.
func (s *survey) first() bool { return s.live.name == "" && len(s.wrong) == 0 }

// payload is an open payload directory; without one, its name is empty.
type payload struct {
	name string
	fd   int
}

func (s *survey) close() {
	if s.live.name != "" {
		closeFD(s.live.fd)
	}
}

// surveyFor reads the directory and changes nothing. It fails if a foreign entry has a name that
// the payload needs.
func (d *Dir) surveyFor(tops []string) (*survey, error) {
	live, err := d.openLive()
	if err != nil {
		return nil, err
	}
	s := &survey{dir: d, live: live}
	if err := s.entries(tops); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// entries compares the entries of the directory with the wanted links.
func (s *survey) entries(tops []string) error {
	names, err := readNames(s.dir.fd)
	if err != nil {
		return fmt.Errorf("listing volume directory %q: %w", s.dir.path, err)
	}
	// Both lists are sorted, so each name skips the wanted ones before it.
	next := 0
	for _, name := range names {
		for next < len(tops) && tops[next] < name {
			s.absent = append(s.absent, tops[next])
			next++
		}
		wanted := next < len(tops) && tops[next] == name
		if wanted {
			next++
		}
		if err := s.entry(name, wanted); err != nil {
			return err
		}
	}
	s.absent = append(s.absent, tops[next:]...)
	return nil
}

func (s *survey) entry(name string, wanted bool) error {
	if strings.HasPrefix(name, "..") {
		if name == dataTmp || name == linksTmp || (isPayloadName(name) && name != s.live.name) {
			s.leftovers = append(s.leftovers, name)
		}
		return nil
	}
	kind, err := s.dir.linkAt(name)
	switch {
	case err != nil:
		return err
	case wanted && kind == notLink:
		return fmt.Errorf("placing %q in %q: %w", name, s.dir.path, ErrForeign)
	case wanted && kind != linkRight:
		s.wrong = append(s.wrong, name)
	case !wanted && (kind == linkRight || kind == linkOurs):
		s.stray = append(s.stray, name)
	}
	return nil
}

type linkKind int

const (
	notLink     linkKind = iota // absent, or a file or directory
	linkForeign                 // leads out of the layout
	linkOurs                    // leads below ..data, to another name
	linkRight                   // leads to its own name below ..data
)

// linkAt returns what kind of entry has a user-visible name.
func (d *Dir) linkAt(name string) (linkKind, error) {
	// Longer than any right target, so that a truncated one never matches.
	var buf [len(dataName) + 1 + maxElement + 1]byte
	target, err := d.readLink(name, buf[:])
	rest, ours := strings.CutPrefix(target, dataName+"/")
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
		return notLink, nil
	case err != nil:
		return notLink, err
	case !ours:
		return linkForeign, nil
	case rest != name:
		return linkOurs, nil
	}
	return linkRight, nil
}

func (d *Dir) readLink(name string, buf []byte) (string, error) {
	n, err := unix.Readlinkat(d.fd, name, buf)
	if err != nil {
		return "", fmt.Errorf("reading link %q in %q: %w", name, d.path, err)
	}
	return string(buf[:n]), nil
}

// openLive opens the payload directory that ..data names. If ..data is missing, or leads anywhere
// but to a payload directory, there is no payload. Any other failure is an error: a live payload
// that could not be opened must not be removed as a leftover.
func (d *Dir) openLive() (payload, error) {
	var buf [maxElement + 1]byte
	target, err := d.readLink(dataName, buf[:])
	switch {
	case errors.Is(err, unix.ENOENT):
		return payload{}, nil
	case errors.Is(err, unix.EINVAL):
		return payload{}, fmt.Errorf("reading %q in %q: %w", dataName, d.path, ErrForeign)
	case err != nil:
		return payload{}, err
	case !isPayloadName(target):
		return payload{}, nil
	}
	fd, err := openDir(d.fd, target)
	if slices.Contains([]error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP}, err) {
		return payload{}, nil
	}
	if err != nil {
		return payload{}, fmt.Errorf("opening payload %q in %q: %w", target, d.path, err)
	}
	return payload{target, fd}, nil
}

// payloadName names a payload directory; attempt distinguishes those of the same instant.
func payloadName(now time.Time, attempt int) string {
	now = now.UTC().Add(time.Duration(attempt))
	return fmt.Sprintf("..%s.%09d", now.Format("2006_01_02_15_04_05"), now.Nanosecond())
}

// payloadPattern matches kubelet's random suffixes as well as this package's, so that Write can take
// over a volume of another writer of this layout.
var payloadPattern = regexp.MustCompile(`^\.\.[0-9]{4}(_[0-9]{2}){5}\.[0-9]+$`)

func isPayloadName(name string) bool {
	return len(name) <= maxElement && payloadPattern.MatchString(name)
}

// stageLinks makes the links in ..links_tmp. After the swap a rename moves them to their names,
// which needs no space.
func (s *survey) stageLinks() error {
	if len(s.absent)+len(s.wrong) == 0 {
		return nil
	}
	if err := s.dir.sys.mkdir(s.dir.fd, linksTmp); err != nil {
		return fmt.Errorf("creating %q in %q: %w", linksTmp, s.dir.path, err)
	}
	fd, err := openDir(s.dir.fd, linksTmp)
	if err != nil {
		return fmt.Errorf("opening %q in %q: %w", linksTmp, s.dir.path, err)
	}
	defer closeFD(fd)
	_, err = s.makeLinks(fd, slices.Concat(s.absent, s.wrong))
	return err
}

// makeLinks returns how many links it made, also with an error.
func (s *survey) makeLinks(fd int, names []string) (int, error) {
	for i, name := range names {
		if err := s.dir.sys.symlink(dataName+"/"+name, fd, name); err != nil {
			return i, fmt.Errorf("creating link %q in %q: %w", name, s.dir.path, err)
		}
	}
	return len(names), nil
}

// placeLinks moves the staged links to their names. It does not replace an entry that took an
// absent name meanwhile.
func (s *survey) placeLinks() error {
	if len(s.absent)+len(s.wrong) == 0 {
		return nil
	}
	fd, err := openDir(s.dir.fd, linksTmp)
	if err != nil {
		return fmt.Errorf("opening %q in %q: %w", linksTmp, s.dir.path, err)
	}
	defer closeFD(fd)
	if err := s.moveLinks(fd, s.absent, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	if err := s.moveLinks(fd, s.wrong, 0); err != nil {
		return err
	}
	return s.dir.removeTree(linksTmp)
}

func (s *survey) moveLinks(from int, names []string, flags uint) error {
	for _, name := range names {
		if err := s.dir.sys.rename(from, name, s.dir.fd, name, flags); err != nil {
			return fmt.Errorf("placing link %q in %q: %w", name, s.dir.path, err)
		}
	}
	return nil
}
