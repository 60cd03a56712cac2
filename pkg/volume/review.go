package volume

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// maxWarnings bounds the warnings in one message.
const maxWarnings = 20

// maxReviewed bounds the classes that a reviewer remembers.
const maxReviewed = 1024

// reviewer checks classes. It remembers the provider's result for the last version of
// each class, and the last version whose warnings are in the log.
type reviewer struct {
	*Config
	validated bounded.Map[class.Ref, validation]
	logged    bounded.Map[class.Ref, string]
}

// validation is the result of a provider's check of a version of a class.
type validation struct {
	version  string
	warnings []string
	err      error
}

// review checks a class before the store is asked, and returns the warnings, and the
// rendering if it has prepared one. An
// unknown name that is near to a known one is an error: the setting that its author
// meant has no effect, so a file may contain or allow more than the author thinks.
// Any other unknown name is a warning, or an error with strict. review never refuses
// the class of the last payload: the credentials of a live volume must not expire
// because of a mistake that was accepted before.
func (v *reviewer) review(rec *Record, c *class.Class, source provider.Provider) (_ Rendering, warnings []string, err error) {
	warnings = slices.Concat(c.Suspects, c.Warnings, v.notFollowed(c), notRead(rec.Ignored))
	if rec.published() && rec.LastClass != nil && sameVersion(rec.LastClass, c) {
		return nil, warnings, nil
	}
	rendering, made, err := v.Renderer.Prepare(rec.ID, c)
	if warnings = slices.Concat(warnings, made); err != nil {
		return nil, warnings, err
	}
	if validator, ok := source.(provider.Validator); ok {
		found := v.validate(c, validator)
		warnings = slices.Concat(warnings, found.warnings)
		if err := errors.Join(found.err, class.Suspected(c.Suspects)); err != nil {
			return nil, warnings, err
		}
	}
	if (c.Strict || v.Strict) && len(warnings) > 0 {
		return nil, warnings, fault.New(fault.InvalidClass, "%s", strings.Join(first(distinct(warnings), maxWarnings), "; ")).
			WithHint("strict makes errors of warnings: correct the class, or set spec.parameters.%s to \"false\" where the operator allows that", class.StrictKey)
	}
	return rendering, warnings, nil
}

func (v *reviewer) validate(c *class.Class, by provider.Validator) validation {
	found, ok := v.validated.Get(c.Ref)
	if !ok || c.ResourceVersion == "" || found.version != versionOf(c) {
		found.version = versionOf(c)
		found.warnings, found.err = by.Validate(c)
		found.warnings = first(found.warnings, maxWarnings)
		v.validated.Set(c.Ref, found)
	}
	return found
}

// report logs the warnings of a run once for each version of a class, and records that the pod
// is warned. It returns the distinct warnings, and whether the pod has no Event about the version
// yet. c is nil if the class was not found.
func (v *reviewer) report(rec *Record, c *class.Class, warnings []string) (reported []string, warnPod bool) {
	warnings = first(distinct(warnings), maxWarnings)
	if len(warnings) == 0 || c == nil {
		return warnings, false
	}
	version := versionOf(c)
	if logged, _ := v.logged.Get(rec.Class); c.ResourceVersion == "" || logged != version {
		v.logged.Set(rec.Class, version)
		for _, w := range warnings {
			v.Logger.Warn("class warning", logkey.Class, rec.Class.String(), logkey.Pod, rec.Pod.String(), logkey.Warning, w)
		}
	}
	warnPod, rec.Warned = rec.Warned != version, version
	return warnings, warnPod
}

// versionOf identifies the version of a class, also of one that was deleted and
// created again.
func versionOf(c *class.Class) string { return c.UID + " " + c.ResourceVersion }

func sameVersion(a, b *class.Class) bool { return versionOf(a) == versionOf(b) }

// notFollowed warns of objects outside the volume that the class asks for and the
// driver does not write.
func (v *reviewer) notFollowed(c *class.Class) []string {
	if v.Follower == nil {
		return nil
	}
	return v.Follower.Warnings(c)
}

// notRead warns of unknown volume attributes.
func notRead(ignored []string) []string {
	if len(ignored) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the pod's volumeAttributes %q are ignored: only secretProviderClass is read, and all else belongs into the class", first(ignored, maxWarnings))}
}

func first(list []string, most int) []string { return list[:min(len(list), most)] }

// distinct removes repeated texts.
func distinct(list []string) []string {
	var out []string
	for _, text := range list {
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

// sameSpec reports whether two versions of a class have the same specification.
func sameSpec(a, b *class.Class) bool {
	x, y := *a, *b
	x.ResourceVersion, y.ResourceVersion = "", ""
	x.Warnings, x.Suspects, y.Warnings, y.Suspects = nil, nil, nil, nil
	return reflect.DeepEqual(x, y)
}
