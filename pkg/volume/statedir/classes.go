package statedir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// classSuffix is the suffix of a class's file. The name before it is the hash of the
// file's content.
const classSuffix = ".class"

// classFiles stores each version of a class once, for all records that name it. It
// writes a file before the first record that names it, and removes it after the
// last. Load removes files that no record names, which a crash may leave.
type classFiles struct {
	dir    directory
	budget *budget.Budget

	mu    sync.Mutex
	files map[string]*classFile // by name
	users map[string]classUse   // by the record's key
}

type classFile struct {
	class  *class.Class // of a file that was read; nil for one that was written
	users  int
	charge *budget.Charge
}

// classUse is the class that a record on disk names.
type classUse struct {
	name  string
	class *class.Class
}

func newClassFiles(dir directory) *classFiles {
	return &classFiles{dir: dir, files: map[string]*classFile{}, users: map[string]classUse{}}
}

func classFileName(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + classSuffix
}

// use writes the file of the class, before the record that names it. The caller must
// call done and say whether it has written the record. The name is empty if there is
// no class.
func (f *classFiles) use(key string, c *class.Class) (name string, done func(written bool), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before := f.users[key]; before.class == c {
		return before.name, func(bool) {}, nil
	}
	if c != nil {
		if name, err = f.add(c); err != nil {
			return "", nil, err
		}
	}
	return name, func(written bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !written {
			f.drop(name)
			return
		}
		f.drop(f.users[key].name)
		f.users[key] = classUse{name, c}
	}, nil
}

// rename follows a record to its new key.
func (f *classFiles) rename(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(f.users[to].name)
	f.users[to] = f.users[from]
	delete(f.users, from)
}

// forget follows the removal of a record.
func (f *classFiles) forget(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(f.users[key].name)
	delete(f.users, key)
}

// add counts a user of the class's file, and writes the file for the first. The
// caller holds mu.
func (f *classFiles) add(c *class.Class) (name string, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return "", fault.New(fault.State, "encoding class %s: %w", c.Ref, err)
	}
	name = classFileName(data)
	if file, ok := f.files[name]; ok {
		file.users++
		return name, nil
	}
	charge, err := f.budget.Acquire(budget.Owner{Namespace: c.Namespace}, budget.Records, stateCost(len(data)))
	if err != nil {
		return "", err
	}
	if err := f.dir.replace(name, [][]byte{data}); err != nil {
		charge.Release()
		return "", err
	}
	f.files[name] = &classFile{users: 1, charge: charge}
	return name, nil
}

// drop counts one user less, and removes the file after the last. The caller holds
// mu.
func (f *classFiles) drop(name string) {
	file, ok := f.files[name]
	if !ok {
		return
	}
	if file.users--; file.users > 0 {
		return
	}
	if err := f.dir.remove(name); err == nil || errors.Is(err, fs.ErrNotExist) {
		file.charge.Release()
	}
	delete(f.files, name)
}

// load returns the class in a file, for a record that was read. Records that name
// the same file share the class.
func (f *classFiles) load(key, name string) (*class.Class, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, ok := f.files[name]
	if !ok {
		data, err := f.read(name)
		if err != nil {
			return nil, err
		}
		c := &class.Class{}
		if json.Unmarshal(data, c) != nil {
			return nil, errCorrupt
		}
		file = &classFile{class: c}
		file.charge = f.budget.Adopt(budget.Owner{Namespace: c.Namespace}, budget.Records, stateCost(len(data)))
		f.files[name] = file
	}
	file.users++
	f.users[key] = classUse{name, file.class}
	return file.class, nil
}

func (f *classFiles) read(name string) ([]byte, error) {
	if filepath.Base(name) != name || !strings.HasSuffix(name, classSuffix) {
		return nil, errCorrupt
	}
	data, err := f.dir.read(name)
	if err == nil && classFileName(data) != name {
		err = errCorrupt
	}
	return data, err
}

// sweep removes the files that no record names.
func (f *classFiles) sweep(names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		if f.files[name] == nil {
			_ = f.dir.remove(name)
		}
	}
}
