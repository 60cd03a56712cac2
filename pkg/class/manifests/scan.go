package manifests

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// index has every class of the directory.
type index map[class.Ref]entry

// entry is a class, or why it cannot be used.
type entry struct {
	class   *class.Class
	err     error
	version string
	files   []string
}

// refresh scans the directory. Callers that arrive during a scan wait for the next one
// and share it.
func (s *Source) refresh() {
	before := s.begun.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun.Load() > before {
		return // a scan that began after this call has ended
	}
	s.begun.Add(1)
	s.scan()
}

func (s *Source) scan() {
	names, err := list(s.Dir)
	if err != nil {
		if s.scanned == nil {
			s.Logger.Error("cannot read the class directory; its classes stay as they were", logkey.Dir, s.Dir, logkey.Error, err)
		}
		s.scanned = err
		return
	}
	s.scanned = nil
	files := make(map[string]*file, len(names))
	for _, name := range names {
		if f := s.read(name, s.files[name]); f != nil {
			files[name] = f
		}
	}
	s.files = files
	s.replace(s.build())
}

// list returns the names of the files to read, sorted. It skips hidden files, which
// belong to other programs, such as a ConfigMap's ..data.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		switch strings.ToLower(filepath.Ext(e.Name())) {
		case ".yaml", ".yml", ".json":
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// build collects the classes of all files. A class that is in two files is an error in
// both, since either could be the right one.
func (s *Source) build() index {
	idx := index{}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		for _, found := range s.files[name].found {
			ref := found.ref
			if old, ok := idx[ref]; ok {
				found = twice(ref, append(old.files, name))
			}
			idx[ref] = found.entry
		}
	}
	return idx
}

func twice(ref class.Ref, files []string) found {
	err := fault.New(fault.InvalidClass, "%s: is in more than one place: %s", ref, strings.Join(files, ", ")).
		WithHint("leave one of them")
	return found{ref, entry{err: err, version: err.Error(), files: files}}
}

// replace sets a new index, and the versions that Run passes to OnVersion: those that
// changed, or all after the first scan.
func (s *Source) replace(idx index) {
	old, known := s.index, s.known
	s.index, s.known = idx, true
	for ref := range s.retained {
		if !known || old[ref].version != idx[ref].version {
			s.versions[ref] = idx[ref].usable()
		}
	}
	if len(s.versions) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// usable is the version of a class that can be used, else empty.
func (e entry) usable() string {
	if e.class == nil {
		return ""
	}
	return e.class.ResourceVersion
}

// missing explains why a class is not in the index.
func (s *Source) missing(ref class.Ref) error {
	const failed = "failed to get secretproviderclass %s: %w"
	if s.scanned != nil {
		return fault.New(fault.Unavailable, failed, ref, fmt.Errorf("reading class directory: %w", s.scanned))
	}
	var broken []string
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[name]
		if f.err == nil {
			continue
		}
		if f.mentions(ref.Name) {
			return fault.New(fault.InvalidClass, failed, ref, f.err)
		}
		broken = append(broken, name)
	}
	err := fault.New(fault.ClassNotFound, failed, ref, fmt.Errorf("no manifest in %s has it", s.Dir))
	switch others := s.namespaces(ref.Name); {
	case len(others) > 0:
		return err.WithHint("namespace %s has one of that name; a class must be in the pod's own", strings.Join(others, ", "))
	case len(broken) > 0:
		return err.WithHint("these files cannot be read: %s", strings.Join(broken, ", "))
	}
	return err
}

func (s *Source) namespaces(name string) []string {
	var list []string
	for ref := range s.index {
		if ref.Name == name {
			list = append(list, ref.Namespace)
		}
	}
	slices.Sort(list)
	return list
}

// gone reports whether a file does not exist any more.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
