package params

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NamedFile is a file that an object asks for, and where its name was given.
type NamedFile struct {
	Name  string
	Index int
	Path  *field.Path
}

// CheckFiles refuses names that are given twice, and those that would have to
// be both a file and a directory.
func (s *Set) CheckFiles(files []NamedFile) {
	owner := map[string]int{}
	for _, f := range files {
		if first, taken := owner[f.Name]; taken {
			s.Errs = append(s.Errs, &field.Error{
				Type: field.ErrorTypeDuplicate, Field: f.Path.String(), BadValue: Clip(f.Name),
				Detail: fmt.Sprintf("objects[%d] has this name too", first),
			})
			continue
		}
		owner[f.Name] = f.Index
	}
	for _, f := range files {
		for i := range len(f.Name) {
			if f.Name[i] != '/' {
				continue
			}
			if other, taken := owner[f.Name[:i]]; taken {
				s.fail(f.Path, f.Name, fmt.Sprintf("objects[%d] is the file %q, so it cannot be a directory", other, Clip(strings.Clone(f.Name[:i]))))
			}
		}
	}
}
