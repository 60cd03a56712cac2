package manifests

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

// defaultNamespace is the namespace of a manifest that names none, as for kubectl.
const defaultNamespace = "default"

// quiet is the age at which equal times prove that a file did not change: two edits
// within a tick of the kernel's clock have the same times.
const quiet = time.Second

// file is a file as it was last read.
type file struct {
	stamp stamp
	sum   [sha256.Size]byte
	found []found
	// err is why a part of the file cannot be read. found has the other classes, and
	// the last good ones.
	err  error
	text []byte // of a broken file, to find the names of its classes
}

type found struct {
	ref class.Ref
	entry
}

// stamp identifies a state of a file without reading the file.
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

// read reads a file if it changed. It returns nil if there is no regular file.
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
	// If the file has become a pipe since, opening it must not block.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, class.MaxManifest+1))
}

// unwrapPath removes the path from an error whose text has the file's name already.
func unwrapPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
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

// broken keeps the last good classes of a file that cannot be read.
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

// class parses one object. Its version is the hash of its content.
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

// version is another one after each change that the API server would call an edit.
func version(o *v1.SecretProviderClass) string {
	text, _ := json.Marshal(o) // nothing but strings: it cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// uid is the hash of the name, which no edit changes.
func uid(ref class.Ref) types.UID {
	h := sha256.Sum256([]byte(ref.String()))
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

// mentions reports whether a broken file seems to have a class of that name.
func (f *file) mentions(name string) bool {
	if !bytes.Contains(f.text, []byte(name)) {
		return false
	}
	return regexp.MustCompile(`(?m)\bname"?\s*:\s*["']?` + regexp.QuoteMeta(name) + `["']?\s*([#,}]|$)`).Match(f.text)
}
