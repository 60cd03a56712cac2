package volume

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

// classSuffix ends the names of files with classes. What is before it is the
// hash of the file.
const classSuffix = ".class"

// classFiles keep each version of a class once, whatever number of records name
// it. A file is written before the first record that names it, and removed after
// the last; what a crash leaves between goes at the next start.
type classFiles struct {
	dir    storeDir
	budget *budget.Budget

	mu     sync.Mutex
	files  map[string]*classFile   // by name
	users  map[string]classUse     // by the record's key
	within map[string]*class.Class // of records of earlier versions, by what would be the name
}

type classFile struct {
	class  *class.Class // of a file that was read; nil for one that was written
	users  int
	charge *budget.Charge
}

// classUse is what a volume's record on disk names.
type classUse struct {
	name  string
	class *class.Class
}

func newClassFiles(dir storeDir) *classFiles {
	return &classFiles{dir: dir, files: map[string]*classFile{}, users: map[string]classUse{}, within: map[string]*class.Class{}}
}

func classFileName(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + classSuffix
}

// use has the file of the class for a record that is about to be written; empty
// for no class. The caller must call the func that it returns, with whether
// the record was written.
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

// rename is for a record that has got another key.
func (f *classFiles) rename(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(f.users[to].name)
	f.users[to] = f.users[from]
	delete(f.users, from)
}

// forget is for a record that is gone.
func (f *classFiles) forget(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(f.users[key].name)
	delete(f.users, key)
}

// add counts one more user and writes the file for the first. It is called with
// mu held.
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

// drop is called with mu held.
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

// loaded is the class of a record that was read: of the file that the record
// names or, of a record as earlier versions wrote them, the one within, for
// which the next write of the record makes a file. Records that have the same
// class share it.
func (f *classFiles) loaded(key, name string, within json.RawMessage) (*class.Class, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == "" {
		return f.inline(within)
	}
	file, ok := f.files[name]
	if !ok {
		data, err := f.read(name)
		if err != nil {
			return nil, err
		}
		file = &classFile{class: &class.Class{}}
		if json.Unmarshal(data, file.class) != nil {
			return nil, errCorrupt
		}
		file.charge = f.budget.Adopt(budget.Owner{Namespace: file.class.Namespace}, budget.Records, stateCost(len(data)))
		f.files[name] = file
	}
	file.users++
	f.users[key] = classUse{name, file.class}
	return file.class, nil
}

// inline is called with mu held.
func (f *classFiles) inline(data json.RawMessage) (*class.Class, error) {
	if len(data) == 0 {
		return nil, nil
	}
	name := classFileName(data)
	if c, ok := f.within[name]; ok {
		return c, nil
	}
	c := &class.Class{}
	if json.Unmarshal(data, c) != nil {
		return nil, errCorrupt
	}
	f.within[name] = c
	return c, nil
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
	clear(f.within)
	for _, name := range names {
		if f.files[name] == nil {
			_ = f.dir.remove(name)
		}
	}
}
