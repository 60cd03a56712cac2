package params

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NamedFile is a file that an object asks for, and the field with its name.
type NamedFile struct {
	Name  string
	Index int
	Path  *field.Path
}

// CheckFiles refuses duplicate names, and names that would be both a file and a directory.
func (m *Mistakes) CheckFiles(files []NamedFile) {
	owner := map[string]int{}
	for _, f := range files {
		if first, taken := owner[f.Name]; taken {
			m.add(&field.Error{
				Type: field.ErrorTypeDuplicate, Field: f.Path.String(), BadValue: Clip(f.Name),
				Detail: fmt.Sprintf("objects[%d] has this name too", first),
			})
			continue
		}
		owner[f.Name] = f.Index
	}
	m.checkDirectories(files)
}

// checkDirectories goes through the names in an order in which a directory comes directly before
// its contents.
func (m *Mistakes) checkDirectories(files []NamedFile) {
	sorted := slices.SortedStableFunc(slices.Values(files), func(a, b NamedFile) int { return byPath(a.Name, b.Name) })
	var above []NamedFile // each is a directory above the next
	for _, f := range sorted {
		for len(above) > 0 && !strings.HasPrefix(f.Name, above[len(above)-1].Name+"/") {
			above = above[:len(above)-1]
		}
		if len(above) > 0 {
			dir := above[len(above)-1]
			m.fail(f.Path, f.Name, fmt.Sprintf("objects[%d] is the file %q, so it cannot be a directory", dir.Index, Clip(dir.Name)))
		}
		above = append(above, f)
	}
}

// byPath compares byte by byte, with the slash before every other byte.
func byPath(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}
