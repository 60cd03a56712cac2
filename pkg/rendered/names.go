package rendered

import (
	"fmt"
	"maps"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// Missing are the messages about names in the lists that no file will have, each with its field
// before it. objects are the files of the class's objects, and may tells of any other name whether an
// object may make it, such as one that makes a file of each key.
func (l Lists) Missing(objects []string, may func(name string) bool) (messages []string) {
	have := map[string]bool{everyFile: true}
	for _, name := range objects {
		have[name] = true
	}
	check := func(field, name string) {
		if !have[name] && !may(name) {
			messages = append(messages, fmt.Sprintf("%s: the volume has no file %q%s", field, params.Clip(name), class.DidYouMean(name, slices.Sorted(maps.Keys(have)))))
		}
	}
	for _, f := range l.Made { // each can take what is made before it
		if f.made == nil {
			for _, name := range f.template.Names() {
				check(f.Field+"."+fieldText, name)
			}
		} else {
			f.made.check(f.Field, check)
		}
		have[f.Path] = true
	}
	for _, name := range slices.Sorted(maps.Keys(l.Secrets)) {
		s := l.Secrets[name]
		for _, key := range slices.Sorted(maps.Keys(s.Data)) {
			for _, name := range s.templates[s.Data[key]].Names() {
				check(s.Field+"."+fieldData, name)
			}
		}
	}
	for _, f := range l.Permissions {
		check(f.Field+"."+fieldName, f.Path)
	}
	return slices.Compact(messages)
}

// check calls check for each object that the format takes.
func (m *made) check(field string, check func(field, name string)) {
	for _, part := range []struct{ field, object string }{
		{fieldCertificate, m.certificate}, {fieldKey, m.key}, {fieldChain, m.chain}, {fieldPassword, m.password},
	} {
		if part.object != "" {
			check(field+"."+part.field, part.object)
		}
	}
	for _, v := range m.variables {
		check(field+"."+fieldVariables, v.object)
	}
}
