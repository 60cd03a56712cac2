package params

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// maxMistakes is the greatest number of errors, and of warnings, that are reported of a class.
const maxMistakes = 20

// root is the path of the parameters in a class.
var root = field.NewPath("spec", "parameters")

// Mistakes are the errors and warnings of one class.
type Mistakes struct {
	Errs     field.ErrorList
	Warnings []string
	// Suspects are the Warnings about names that are near to known ones, so probably misspelt.
	Suspects []string

	more int // number of mistakes that are not in Errs
}

func (m *Mistakes) fail(path *field.Path, value, detail string) {
	m.add(field.Invalid(path, Clip(value), detail))
}

func (m *Mistakes) add(e *field.Error) {
	if len(m.Errs) == maxMistakes {
		m.more++
		return
	}
	m.Errs = append(m.Errs, e)
}

// Warn reports a mistake that does not stop the class from working. When there are too many
// warnings, one says so and the rest are dropped.
func (m *Mistakes) Warn(path *field.Path, format string, args ...any) {
	switch {
	case len(m.Warnings) < maxMistakes:
		m.Warnings = append(m.Warnings, path.String()+": "+fmt.Sprintf(format, args...))
	case !m.warnedEnough():
		m.Warnings = append(m.Warnings, root.String()+": there are more warnings")
	}
}

// suspect reports a name that is near to a known one; false if it is not.
func (m *Mistakes) suspect(path *field.Path, name string, known []string, at string) bool {
	suggestion := class.DidYouMean(name, known)
	if suggestion == "" {
		return false
	}
	m.Warn(path, "unknown%s%s", at, suggestion)
	if len(m.Suspects) < maxMistakes {
		m.Suspects = append(m.Suspects, fmt.Sprintf("%s: unknown%s%s", path, at, suggestion))
	}
	return true
}

func (m *Mistakes) warnedEnough() bool { return len(m.Warnings) > maxMistakes }

// Err returns the errors as one; nil if there are none.
func (m *Mistakes) Err() error {
	switch {
	case len(m.Errs) == 0:
		return nil
	case m.more > 0:
		return fault.New(fault.InvalidClass, "%w, and %d more", m.Errs.ToAggregate(), m.more)
	}
	return fault.New(fault.InvalidClass, "%w", m.Errs.ToAggregate())
}
