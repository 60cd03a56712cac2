package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// maxWarnings bounds what the author of a class is told at once.
const maxWarnings = 20

// maxVersions bounds the memory of a reviewer.
const maxVersions = 1024

// reviewer judges classes. It remembers the judgement of each version, and which
// of them the log has the warnings of.
type reviewer struct {
	*Config
	judged versions[judgement]
	logged versions[struct{}]
}

// judgement is what a provider says of a class.
type judgement struct {
	warnings []string
	err      error
}

// review gives what the author of a class should know, before the store is asked.
// A name that is near to a known one is an error: what it was meant to set is not
// set, so a file may hold or allow more than its author believes. Any other
// unknown name is a warning, as others ignore it too, and with strict that is an
// error as well. The class of the last payload is not refused: its credentials
// must not end for a mistake that was let pass.
func (v *reviewer) review(r *run, c *class.Class, source provider.Provider) ([]string, error) {
	warnings := slices.Concat(c.Suspects, c.Warnings, v.notFollowed(c), notRead(r.rec.Ignored))
	if r.lastClass || r.rec.published() && r.rec.LastClass != nil && sameVersion(r.rec.LastClass, c) {
		return warnings, nil
	}
	made, err := v.Renderer.Check(c)
	if warnings = slices.Concat(warnings, made); err != nil {
		return warnings, err
	}
	if validator, ok := source.(provider.Validator); ok {
		found := v.judge(c, validator)
		warnings = slices.Concat(warnings, found.warnings)
		if err := errors.Join(found.err, class.Suspected(c.Suspects)); err != nil {
			return warnings, err
		}
	}
	if (c.Strict || v.Strict) && len(warnings) > 0 {
		return warnings, fault.New(fault.InvalidClass, "%s", strings.Join(first(distinct(warnings), maxWarnings), "; ")).
			WithHint("strict makes errors of warnings: correct the class, or set spec.parameters.%s to \"false\" where the operator allows that", class.StrictKey)
	}
	return warnings, nil
}

func (v *reviewer) judge(c *class.Class, by provider.Validator) judgement {
	found, ok := v.judged.get(c)
	if !ok {
		found.warnings, found.err = by.Validate(c)
		found.warnings = first(found.warnings, maxWarnings)
		v.judged.set(c, found)
	}
	return found
}

// report logs the warnings of a run once for each version of a class, and has
// the observer told once for each version and pod.
func (v *reviewer) report(r *run) {
	r.warnings = first(distinct(r.warnings), maxWarnings)
	if len(r.warnings) == 0 || r.class == nil {
		return
	}
	if _, ok := v.logged.get(r.class); !ok {
		v.logged.set(r.class, struct{}{})
		for _, w := range r.warnings {
			v.Logger.Warn("class warning", logkey.Class, r.rec.Class.String(), logkey.Pod, r.rec.Pod.String(), logkey.Warning, w)
		}
	}
	version := versionOf(r.class)
	r.warnPod, r.rec.Warned = r.rec.Warned != version, version
}

// versionOf tells the versions of a class apart, also those of one that was
// deleted and made again.
func versionOf(c *class.Class) string { return c.UID + " " + c.ResourceVersion }

func sameVersion(a, b *class.Class) bool { return versionOf(a) == versionOf(b) }

// versions keep something for the version of each class that was seen last. The
// zero value is empty.
type versions[V any] struct {
	mu    sync.Mutex
	known map[class.Ref]version[V]
}

type version[V any] struct {
	version string
	what    V
}

func (m *versions[V]) get(c *class.Class) (what V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.known[c.Ref]
	return e.what, ok && c.ResourceVersion != "" && e.version == versionOf(c)
}

func (m *versions[V]) set(c *class.Class, what V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxVersions {
		m.known = map[class.Ref]version[V]{}
	}
	m.known[c.Ref] = version[V]{versionOf(c), what}
}

// notFollowed warns of what the class asks for outside of the volume and does not get.
func (v *reviewer) notFollowed(c *class.Class) []string {
	if v.Follower == nil {
		return nil
	}
	return v.Follower.Warnings(c)
}

// notRead warns of the volume attributes that mean nothing.
func notRead(ignored []string) []string {
	if len(ignored) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the pod's volumeAttributes %q are ignored: only secretProviderClass is read, and all else belongs into the class", first(ignored, maxWarnings))}
}

func first(list []string, most int) []string { return list[:min(len(list), most)] }

// distinct drops what is said twice.
func distinct(list []string) []string {
	var out []string
	for _, text := range list {
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}
