package doctor

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// acceptance is one entry of a baseline.
type acceptance struct {
	Code string `json:"code"`
	// Object is the object of the finding, as text output shows it.
	Object string `json:"object"`
	// Message selects the finding with this text, for objects with several findings of one code.
	Message string `json:"message,omitempty"`
	Reason  string `json:"reason"`
	// Expires is the last day on which the entry is valid; empty for always.
	Expires string `json:"expires,omitempty"`

	used, old bool
}

const day = "2006-01-02"

func (a *acceptance) fits(f *finding.Finding) bool {
	return a.Code == f.Code && a.Object == f.Object.String() && (a.Message == "" || a.Message == f.Message)
}

// baseline is the accepted findings, on a day.
type baseline struct {
	entries []acceptance
	now     time.Time
}

// readBaseline reads the file of --baseline, and that of --write-baseline if it exists.
func readBaseline(now time.Time, given, written string) (*baseline, error) {
	b := &baseline{now: now}
	if given != "" {
		if err := b.read(given, given == written); err != nil {
			return nil, err
		}
	}
	if written != "" && written != given {
		if err := b.read(written, true); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *baseline) read(name string, mayBeAbsent bool) error {
	data, err := os.ReadFile(name)
	if os.IsNotExist(err) && mayBeAbsent {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the baseline: %w", err)
	}
	var file struct {
		Accepted []acceptance `json:"accepted"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return fmt.Errorf("reading the baseline %s: %w", name, err)
	}
	for i := range file.Accepted {
		if err := b.check(&file.Accepted[i]); err != nil {
			return fmt.Errorf("the baseline %s: accepted[%d]%w", name, i, err)
		}
	}
	b.entries = append(b.entries, file.Accepted...)
	return nil
}

func (b *baseline) check(a *acceptance) error {
	if !slices.ContainsFunc(finding.Rules(), func(r finding.Rule) bool { return r.Code == a.Code }) {
		return fmt.Errorf(".code: %q is not a code of a finding", a.Code)
	}
	if strings.TrimSpace(a.Reason) == "" {
		return fmt.Errorf(".reason: must say why %s is accepted", a.Code)
	}
	if a.Expires != "" {
		last, err := time.Parse(day, a.Expires)
		if err != nil {
			return fmt.Errorf(".expires: %q must be a day such as 2027-01-31", a.Expires)
		}
		a.old = !b.now.Before(last.AddDate(0, 0, 1))
	}
	return nil
}

// apply removes the findings that the baseline accepts from the report, and reports entries that no
// longer match.
func (b *baseline) apply(l *look) {
	if len(b.entries) == 0 {
		return
	}
	count := 0
	var expired []acceptance
	l.report.Findings = slices.DeleteFunc(l.report.Findings, func(f finding.Finding) bool {
		for i := range b.entries {
			a := &b.entries[i]
			if !a.fits(&f) {
				continue
			}
			a.used = true
			if !a.old {
				count++
				return true
			}
			expired = append(expired, *a)
		}
		return false
	})
	for _, a := range expired {
		l.add(finding.CodeBaselineOutdated, finding.Finding{Message: fmt.Sprintf("%s of %s was accepted until %s: %s", a.Code, cmp.Or(a.Object, "the cluster"), a.Expires, a.Reason)})
	}
	for _, a := range b.entries {
		if !a.used && l.namespace == "" {
			l.add(finding.CodeBaselineOutdated, finding.Finding{Level: finding.Info, Message: fmt.Sprintf("%s of %s is accepted and was not found", a.Code, cmp.Or(a.Object, "the cluster")), Remedy: "remove the entry"})
		}
	}
	l.report.Check("baseline", finding.Good, output.Plural(count, "finding")+" accepted")
}

// write writes the accepted findings and all others of this run, which are accepted from then on.
// It leaves out what could not be checked.
func (b *baseline) write(name string, r *finding.Report) error {
	r.Sort()
	b.entries = slices.DeleteFunc(b.entries, func(a acceptance) bool { return a.old })
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Code == finding.CodeNotReadable || slices.ContainsFunc(b.entries, func(a acceptance) bool { return a.fits(f) }) {
			continue
		}
		a := acceptance{Code: f.Code, Object: f.Object.String(), Reason: "found on " + b.now.UTC().Format(day)}
		if several(f) {
			a.Message = f.Message
		}
		b.entries = append(b.entries, a)
	}
	data, err := yaml.Marshal(map[string]any{"accepted": b.entries})
	if err != nil {
		return fmt.Errorf("writing the baseline: %w", err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return fmt.Errorf("writing the baseline: %w", err)
	}
	return nil
}

// several reports whether an object may have several findings of one code, so that accepting one
// does not accept the next.
func several(f *finding.Finding) bool {
	switch f.Code {
	case finding.CodePlainText, finding.CodeNoAllowList, finding.CodeUnknownFlag:
		return true
	}
	return false
}
