package endpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// DefaultClassFileDir is the directory of files that classes may name if the operator lists no
// directory.
const DefaultClassFileDir = "/etc/mayfly/class-files"

const (
	maxFile    = 1 << 20 // bytes of one file of TLS settings
	maxDir     = 8 << 20 // bytes of all files of a directory of authorities
	maxEntries = 1024    // files of such a directory
)

// Files reads the files of TLS settings: the operator's own from anywhere, and those that classes
// name from beneath the directories that the operator lists.
//
// It opens a file once, without waiting for a writer. The file must be a regular file of bounded
// size. A file system can still hang, and no context ends a system call. So each directory has at
// most one goroutine that reads: a caller returns when its context ends, and the next caller waits
// for the goroutine that hangs instead of starting another one.
type Files struct {
	own    *dir
	listed []*dir
}

// NewFiles takes the directories beneath which classes may name files; none means
// DefaultClassFileDir. They need not exist.
func NewFiles(dirs []string) (*Files, error) {
	if len(dirs) == 0 {
		dirs = []string{DefaultClassFileDir}
	}
	f := &Files{own: newDir("")}
	for _, path := range dirs {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("directory of class files %q: must be an absolute path", path)
		}
		f.listed = append(f.listed, newDir(filepath.Clean(path)))
	}
	// The innermost comes first: a directory that hangs beneath another one does not block the
	// outer one.
	slices.SortStableFunc(f.listed, func(a, b *dir) int { return len(b.path) - len(a.path) })
	return f, nil
}

// CheckDirs refuses directories of class files that are inside of a private path, or contain one:
// classes could name the files there. The keys of private describe the paths, for the error.
func CheckDirs(dirs []string, private map[string]string) error {
	for _, path := range dirs {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%q: must be an absolute path", path)
		}
		for _, what := range slices.Sorted(maps.Keys(private)) {
			secret := private[what]
			if secret == "" {
				continue
			}
			if a, b := resolved(path), resolved(secret); within(a, b) || within(b, a) {
				return fmt.Errorf("%q is inside of %s, %q, or holds it: classes could name the files there; list a directory that holds files for classes and nothing else", path, what, secret)
			}
		}
	}
	return nil
}

// resolved follows links as far as the path exists.
func resolved(path string) string {
	path = filepath.Clean(path)
	for rest := ""; ; {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(target, rest)
		}
		if path == filepath.Dir(path) {
			return filepath.Join(path, rest)
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// Check refuses a path that is beneath none of the listed directories. It looks at the path alone,
// so its error is the same whether the file exists or not.
func (f *Files) Check(field, path string) error {
	if f.dirOf(path) != nil {
		return nil
	}
	return f.outside(field, path)
}

func (f *Files) outside(field, path string) *fault.Error {
	var dirs []string
	for _, d := range f.listed {
		dirs = append(dirs, d.path)
	}
	return fault.New(fault.NotAllowed, "%s: %q leads to no file beneath the directories that this node's operator lists with %s, where classes may name files", field, path, setting.Name("--class-file-dirs")).
		WithHint("have the file mounted beneath %s", strings.Join(dirs, " or "))
}

func (f *Files) dirOf(path string) *dir {
	if !filepath.IsAbs(path) {
		return nil
	}
	for _, d := range f.listed {
		if within(filepath.Clean(path), d.path) {
			return d
		}
	}
	return nil
}

// dir is a listed directory or, with an empty path, the whole file system, for the operator's own
// files.
type dir struct {
	path string
	// reading has one slot, for the goroutine that reads.
	reading chan struct{}
}

func newDir(path string) *dir { return &dir{path: path, reading: make(chan struct{}, 1)} }

var (
	errOutside = errors.New("it leads out of the listed directory")
	errHangs   = errors.New("the file system gives no answer")
)

// read returns the contents of a file or, with list, those of a directory's files.
func (d *dir) read(ctx context.Context, path string, list bool) ([][]byte, error) {
	type result struct {
		data [][]byte
		err  error
	}
	select {
	case d.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errHangs, context.Cause(ctx))
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-d.reading }()
		var r result
		if list {
			r.data, r.err = d.files(path)
		} else {
			var data []byte
			data, r.err = d.file(path, maxFile)
			r.data = [][]byte{data}
		}
		done <- r
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errHangs, context.Cause(ctx))
	}
}
