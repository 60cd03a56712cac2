package atomicdir

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a path. In bytes they are the kernel's NAME_MAX and PATH_MAX. The number of elements is
// bounded because each directory takes kernel memory: a few hundred paths of 2048 elements would
// take more than the contents of all volumes.
const (
	maxElement  = 255
	maxPath     = 4096
	maxElements = 16
)

const (
	defaultMode = fs.FileMode(0o644)
	// quotedPath bounds how much of a hostile path an error quotes, in bytes.
	quotedPath = 256
)

// Owner is whom a file belongs to, by numeric ids. A field that is nil leaves it to the volume: its
// files belong to the user of this process, and to the volume group.
type Owner struct {
	UID, GID *uint32
}

// MaxID is the largest user or group id: chown reads the next number as "do not change".
const MaxID = math.MaxUint32 - 1

// IsZero reports whether the owner is left to the volume.
func (o Owner) IsZero() bool { return o.UID == nil && o.GID == nil }

// Equal reports whether both name the same ids.
func (o Owner) Equal(other Owner) bool {
	return equalID(o.UID, other.UID) && equalID(o.GID, other.GID)
}

func equalID(a, b *uint32) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// Or returns o, with the ids of other where it has none.
func (o Owner) Or(other Owner) Owner {
	return Owner{UID: cmp.Or(o.UID, other.UID), GID: cmp.Or(o.GID, other.GID)}
}

// String is the form of chown, such as "1000:" where only the user is known.
func (o Owner) String() string { return idText(o.UID) + ":" + idText(o.GID) }

func idText(id *uint32) string {
	if id == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*id), 10)
}

// File is one file of a payload.
type File struct {
	// Path is relative to the volume and may be nested ("a/b/c"). See ValidatePath for the rules.
	Path string
	// Mode holds permission bits only. 0 means 0644.
	Mode  fs.FileMode
	Owner Owner
	// Contents is never printed, marshalled or put into an error.
	Contents []byte `json:"-"`
}

// Format prints a file without its contents, whatever the verb, so that no logger can print a
// payload.
func (f File) Format(s fmt.State, _ rune) {
	owner := ""
	if !f.Owner.IsZero() {
		owner = " " + f.Owner.String()
	}
	fmt.Fprintf(s, "%s %04o%s %d bytes", quote(f.Path), uint32(f.Mode), owner, len(f.Contents))
}

// PathError says why a file cannot be part of a payload. Reason can follow the name of a field: "is
// absolute".
type PathError struct {
	Path   string
	Reason string
}

func (e *PathError) Error() string {
	return "invalid file " + quote(e.Path) + ": " + e.Reason
}

// ValidatePath checks whether p may be the path of a file in a volume; the error is a *PathError.
// It refuses an empty path, an absolute one, one longer than 4096 bytes, with more than 16 elements
// or with one longer than 255 bytes, one that is not clean ("a//b", "./a", "a/"), any ".." element,
// and a first element that starts with "..", because those names belong to the layout.
//
// It refuses control characters because a name with a newline or an escape forges lines in
// listings, events and logs. It refuses invalid UTF-8 because the API objects that repeat the name
// cannot carry it.
func ValidatePath(p string) error {
	reason := pathReason(p)
	if reason == "" {
		return nil
	}
	return &PathError{Path: p, Reason: reason}
}

func pathReason(p string) string {
	switch {
	case p == "":
		return "is empty"
	case len(p) > maxPath:
		return fmt.Sprintf("is %d bytes long, more than %d", len(p), maxPath)
	case p[0] == '/':
		return "is absolute"
	case !utf8.ValidString(p):
		return "is not valid UTF-8"
	}
	if i := strings.IndexFunc(p, unicode.IsControl); i >= 0 {
		r, _ := utf8.DecodeRuneInString(p[i:])
		return fmt.Sprintf("has the control character %U", r)
	}
	if n := strings.Count(p, "/") + 1; n > maxElements {
		return fmt.Sprintf("has %d elements, more than %d", n, maxElements)
	}
	for element := range strings.SplitSeq(p, "/") {
		if reason := elementReason(element); reason != "" {
			return reason
		}
	}
	if strings.HasPrefix(p, "..") {
		return `starts with "..", which is reserved for the volume's own entries`
	}
	return ""
}

func elementReason(element string) string {
	switch {
	case element == "":
		return "is not clean: it has an empty element"
	case element == ".":
		return `is not clean: it has a "." element`
	case element == "..":
		return `has a ".." element`
	case len(element) > maxElement:
		return fmt.Sprintf("has an element of %d bytes, more than %d", len(element), maxElement)
	}
	return ""
}

// ValidateFiles checks whether the files can make up one payload: each path by ValidatePath, each
// mode within 0777, no id above MaxID, no path twice, and no path that is both a file and a directory. The error is a
// *PathError.
func ValidateFiles(files []File) error {
	_, err := sortedIndexes(files)
	return err
}

func validateFile(f File) error {
	if err := ValidatePath(f.Path); err != nil {
		return err
	}
	if f.Mode&^fs.ModePerm != 0 {
		// Print the number itself: fs.FileMode's own text would show a Unix 04755 as question
		// marks.
		return &PathError{f.Path, fmt.Sprintf("has the mode %#o, which is more than permission bits (0777)", uint32(f.Mode))}
	}
	for _, id := range []*uint32{f.Owner.UID, f.Owner.GID} {
		if id != nil && *id > MaxID {
			return &PathError{f.Path, fmt.Sprintf("has the owner %s, and %d is not an id", f.Owner, *id)}
		}
	}
	return nil
}

func quote(p string) string {
	if len(p) <= quotedPath {
		return fmt.Sprintf("%q", p)
	}
	return fmt.Sprintf("%q... (%d bytes)", p[:quotedPath], len(p))
}

// sortedIndexes validates the files and returns their indexes in tree order.
func sortedIndexes(files []File) ([]int, error) {
	order := make([]int, len(files))
	for i, f := range files {
		if err := validateFile(f); err != nil {
			return nil, err
		}
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return ComparePaths(files[a].Path, files[b].Path) })
	for k := 1; k < len(order); k++ {
		i, j := order[k-1], order[k]
		a, b := files[i].Path, files[j].Path
		if a == b {
			return nil, &PathError{a, fmt.Sprintf("is given twice, as files %d and %d", i, j)}
		}
		// In tree order the entries below a path follow it directly, so comparing neighbours is
		// enough.
		if strings.HasPrefix(b, a) && b[len(a)] == '/' {
			return nil, &PathError{a, fmt.Sprintf("is a file (files %d) and also a directory (files %d, %s)", i, j, quote(b))}
		}
	}
	return order, nil
}

// ComparePaths orders paths as a walk of the tree does: bytewise, with '/' before every other byte.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return int(a[i]) - int(b[i])
	}
	return len(a) - len(b)
}

// split cuts a clean path into its directory ("" at the top) and last element.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
