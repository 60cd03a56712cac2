package dirsource

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// defaultNamespace is that of a manifest which names none, as for kubectl.
const defaultNamespace = "default"

// quiet is how long a file must have been left alone before its times prove
// that it did not change: two edits within a tick of the kernel's clock look
// the same.
const quiet = time.Second

// file is what was last read of one.
type file struct {
	stamp stamp
	sum   [sha256.Size]byte
	found []found
	// err is why the file as it is now cannot be read. The classes in found
	// are then those it can be read for, and the last good ones.
	err  error
	text []byte // of a broken file, to see which classes it speaks of
}

type found struct {
	ref class.Ref
	entry
}

// stamp tells one state of a file from another without reading it.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(info fs.FileInfo) (stamp, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, false
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, time.Since(time.Unix(st.Ctim.Unix())) > quiet
}

// read brings one file up to date; nil means that it is not there, or no file.
func (s *Source) read(name string, old *file) *file {
	path := filepath.Join(s.Dir, name)
	info, err := os.Stat(path)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return s.broken(name, old, &file{err: fmt.Errorf("reading %s: %w", name, unwrapPath(err))})
	case !info.Mode().IsRegular():
		return nil
	}
	now, proves := stampOf(info)
	if old != nil && proves && old.stamp == now {
		return old
	}
	text, err := contents(path)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return s.broken(name, old, &file{err: fmt.Errorf("reading %s: %w", name, unwrapPath(err))})
	}
	f := &file{stamp: now, sum: sha256.Sum256(text)}
	if old != nil && old.sum == f.sum {
		old.stamp = now
		return old
	}
	return s.parse(name, old, f, text)
}

func contents(path string) ([]byte, error) {
	// Should it have become a pipe since, it must not hold everybody up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, class.MaxManifest+1))
}

// unwrapPath drops the path from an error that has the file's name already.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func (s *Source) parse(name string, old, f *file, text []byte) *file {
	objects, warnings, err := class.ParseManifest(text)
	for _, w := range warnings {
		s.Logger.Warn("a manifest has a flaw", logkey.File, name, logkey.Warning, w)
	}
	var known []found
	if old != nil {
		known = old.found
	}
	for _, o := range objects {
		f.add(name, s.class(name, o, known))
	}
	if err == nil {
		return f
	}
	f.err, f.text = fmt.Errorf("reading %s: %w", name, err), text
	return s.broken(name, old, f)
}

// add refuses a class that the file has twice.
func (f *file) add(name string, one found) {
	for i := range f.found {
		if f.found[i].ref == one.ref {
			f.found[i] = twice(one.ref, append(f.found[i].files, name))
			return
		}
	}
	f.found = append(f.found, one)
}

// broken keeps the last good classes of a file that cannot be read now.
func (s *Source) broken(name string, old, f *file) *file {
	if old != nil {
		for _, one := range old.found {
			if !slices.ContainsFunc(f.found, func(g found) bool { return g.ref == one.ref }) {
				f.found = append(f.found, one)
			}
		}
	}
	if old == nil || old.err == nil || old.err.Error() != f.err.Error() {
		s.Logger.Error("a manifest cannot be read; its classes stay as they were", logkey.File, name, logkey.Error, f.err)
	}
	return f
}

// class parses one object, which stands for itself: its version is its content.
func (s *Source) class(name string, o *v1.SecretProviderClass, known []found) found {
	if o.Namespace == "" {
		o.Namespace = defaultNamespace
	}
	ref := class.Ref{Namespace: o.Namespace, Name: o.Name}
	o.UID, o.ResourceVersion = uid(ref), version(o)
	for _, k := range known {
		if k.ref == ref && k.version == o.ResourceVersion {
			return k
		}
	}
	c, warnings, err := class.Parse(o)
	for _, w := range warnings {
		s.Logger.Warn("a class has a flaw", logkey.Class, ref.String(), logkey.File, name, logkey.Warning, w)
	}
	if err != nil {
		s.Logger.Error("a class cannot be used", logkey.File, name, logkey.Error, err)
	}
	return found{ref, entry{class: c, err: err, version: o.ResourceVersion, files: []string{name}}}
}

// version is made of what the API server would call an edit.
func version(o *v1.SecretProviderClass) string {
	text, _ := json.Marshal(o) // nothing but strings: it cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// uid is made of the name, the one thing that stays over all edits.
func uid(ref class.Ref) types.UID {
	h := sha256.Sum256([]byte(ref.String()))
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

// mentions tells whether a broken file seems to hold a class of that name.
func (f *file) mentions(name string) bool {
	if !bytes.Contains(f.text, []byte(name)) {
		return false
	}
	return regexp.MustCompile(`(?m)\bname"?\s*:\s*["']?` + regexp.QuoteMeta(name) + `["']?\s*([#,}]|$)`).Match(f.text)
}
