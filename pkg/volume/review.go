package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// maxWarnings bounds what the author of a class is told at once.
const maxWarnings = 20

// review gives what the author of a class should know of, before the store is
// asked. A name that is near to a known one is an error: what it was meant to set
// is not set, so a file may hold or allow more than its author believes. Any
// other unknown name is a warning, as others ignore it too, and with strict that
// is an error as well. A class that the volume runs by already is not refused:
// its credentials must not end for a mistake that was let pass.
func (p *Publisher) review(w pass, c *class.Class, source provider.Provider) ([]string, error) {
	warnings := slices.Concat(c.Suspects, c.Warnings, notMade(c), notRead(w.rec))
	if w.upkeep || w.rec.published() && w.rec.LastClass != nil && sameEdition(w.rec.LastClass, c) {
		return warnings, nil
	}
	validator, inProcess := source.(provider.Validator)
	if inProcess {
		found, err := p.reviews.of(c, validator)
		warnings = slices.Concat(warnings, found)
		if err = errors.Join(err, class.Suspected(c.Suspects)); err != nil {
			return warnings, err
		}
	}
	if (c.Strict || p.Strict) && len(warnings) > 0 {
		return warnings, fault.New(fault.InvalidClass, "%s", strings.Join(first(distinct(warnings), maxWarnings), "; ")).
			WithHint("strict makes errors of warnings: correct the class, or set spec.parameters.%s to \"false\" where the operator allows that", class.StrictKey)
	}
	return warnings, nil
}

func sameEdition(a, b *class.Class) bool {
	return a.UID == b.UID && a.ResourceVersion == b.ResourceVersion
}

// notMade warns of the Kubernetes Secrets that a class asks for.
func notMade(c *class.Class) []string {
	if len(c.SecretObjects) == 0 {
		return nil
	}
	names := make([]string, len(c.SecretObjects))
	for i, o := range c.SecretObjects {
		names[i] = o.SecretName
	}
	return []string{fmt.Sprintf("spec.secretObjects: this driver makes no Kubernetes Secrets, so %q is not made or updated: read the file, or leave the class on a driver that makes them", first(names, maxWarnings))}
}

// notRead warns of the volume attributes that mean nothing.
func notRead(rec *Record) []string {
	if len(rec.Ignored) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the pod's volumeAttributes %q are ignored: only secretProviderClass is read, and all else belongs into the class", first(rec.Ignored, maxWarnings))}
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
