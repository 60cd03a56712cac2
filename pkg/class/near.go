package class

import (
	"strings"
	"unicode"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// maxNameBytes bounds the names that are compared, in bytes.
const maxNameBytes = 64

// Near returns the known name that was most probably meant: it differs in case and separators
// alone, or in a letter or two of a long name. Empty if there is none.
func Near(name string, known []string) string {
	best, least := "", 3
	if len(name) > maxNameBytes {
		return ""
	}
	name = plain(name)
	for _, k := range known {
		if len(k) > maxNameBytes {
			continue
		}
		other := plain(k)
		if more := len(name) - len(other); max(more, -more) >= least {
			continue // the lengths differ by that many edits already
		}
		if d := edits(name, other); d < least && 4*d <= len(k) {
			best, least = k, d
		}
	}
	return best
}

// DidYouMean is the end of an error about a name: it suggests the name of Near. Empty if there is none.
func DidYouMean(name string, known []string) string {
	if near := Near(name, known); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// Suspected is the error for names that are near to known ones, nil for none: the settings that
// they were meant for are not set.
func Suspected(suspects []string) error {
	if len(suspects) == 0 {
		return nil
	}
	return fault.New(fault.InvalidClass, "%s", strings.Join(suspects, "; "))
}

// plain removes what people vary unintentionally: case and separators.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_.", r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// edits is how many letters must be inserted, removed or replaced to turn a into b.
func edits(a, b string) int {
	above, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := above[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, above[j+1]+1, row[j]+1)
		}
		above, row = row, above
	}
	return above[len(b)]
}
