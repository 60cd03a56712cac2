package params

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
)

// NamedFile is a file that an object asks for, and the field with its name.
type NamedFile struct {
	Name  string
	Index int
	Path  *field.Path
	// Every tells that Name is the directory of files whose names the store tells.
	Every bool
}

// Named are the files that an object asks for. name is the field with its name.
func (o *Object) Named(name string, takes []Take) (files []NamedFile) {
	at := o.Path(name)
	if o.HasKeys() {
		at = o.Path(fieldKeys)
	}
	for _, t := range takes {
		if t.File != "" {
			files = append(files, NamedFile{t.File, o.Index, at, t.Every})
		}
	}
	return files
}

// CheckFiles refuses more files than objects, duplicate names, and names that would be both a file
// and a directory.
func (m *Mistakes) CheckFiles(files []NamedFile) {
	if len(files) > maxObjects {
		m.add(field.TooMany(files[maxObjects].Path, len(files), maxObjects))
		return
	}
	Collisions(files, func(f, with NamedFile, inside bool) {
		if inside {
			m.fail(f.Path, f.Name, fmt.Sprintf("objects[%d] is the file %q, so it cannot be a directory", with.Index, Clip(with.Name)))
			return
		}
		m.add(&field.Error{
			Type: field.ErrorTypeDuplicate, Field: f.Path.String(), BadValue: Clip(f.Name),
			Detail: fmt.Sprintf("objects[%d] has this name too", with.Index),
		})
	})
}

// Collisions reports the files that cannot be in one volume: those with the name of an earlier one,
// and those inside of what is a file.
func Collisions(files []NamedFile, report func(f, with NamedFile, inside bool)) {
	owner := map[string]NamedFile{}
	for _, f := range files {
		first, taken := owner[f.Name]
		switch {
		case f.Every:
		case taken:
			report(f, first, false)
		default:
			owner[f.Name] = f
		}
	}
	// In this order a directory comes directly before its contents.
	sorted := slices.SortedStableFunc(slices.Values(files), func(a, b NamedFile) int { return atomicdir.ComparePaths(a.first(), b.first()) })
	var above []NamedFile // each is a directory above the next
	for _, f := range sorted {
		for len(above) > 0 && !strings.HasPrefix(f.first(), above[len(above)-1].Name+"/") {
			above = above[:len(above)-1]
		}
		if len(above) > 0 {
			report(f, above[len(above)-1], true)
		}
		if !f.Every {
			above = append(above, f)
		}
	}
}

// first comes before the names of the files that it is about.
func (f NamedFile) first() string {
	if f.Every {
		return f.Name + "/"
	}
	return f.Name
}
