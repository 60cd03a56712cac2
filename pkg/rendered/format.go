package rendered

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/rendered/envfile"
	"github.com/mayfly-csi/mayfly/pkg/rendered/keystore"
)

// made is a file in a format, and the files from which it is made.
type made struct {
	field                             string
	format                            string
	certificate, key, chain, password string
	alias                             string
	variables                         []variable
}

// variable is a variable of a file of variables.
type variable struct{ name, object string }

func (m *made) render(have map[string]string) ([]byte, error) {
	if m.format == formatEnv {
		return m.variableFile(have)
	}
	in := keystore.Input{Alias: cmp.Or(m.alias, keystore.DefaultAlias), Password: []byte(keystore.DefaultPassword)}
	for name, part := range map[string]struct {
		object string
		to     *[]byte
	}{
		fieldCertificate: {m.certificate, &in.Certificate}, fieldKey: {m.key, &in.Key}, fieldChain: {m.chain, &in.Chain}, fieldPassword: {m.password, &in.Password},
	} {
		if part.object == "" {
			continue
		}
		contents, err := find(have, part.object)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		*part.to = []byte(contents)
	}
	out, err := keystore.Make(keystore.Format(m.format), in)
	if wrong, ok := errors.AsType[*keystore.Problem](err); ok {
		if object := m.objectOf(wrong.Part); object != "" {
			return nil, fmt.Errorf("%s: object %q %s", wrong.Part, params.Clip(object), wrong.What)
		}
	}
	return out, err
}

// objectOf returns the object from which a part of a keystore comes.
func (m *made) objectOf(part string) string {
	return map[string]string{fieldCertificate: m.certificate, fieldKey: m.key, fieldChain: m.chain, fieldPassword: m.password}[part]
}

func (m *made) variableFile(have map[string]string) (out []byte, err error) {
	for _, v := range m.variables {
		value, err := find(have, v.object)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", fieldVariables, v.name, err)
		}
		line, err := envfile.Line(v.name, []byte(value))
		if err != nil {
			return nil, fmt.Errorf("%s: %s: object %q %w", fieldVariables, v.name, params.Clip(v.object), err)
		}
		out = append(out, line...)
	}
	return out, nil
}

func find(have map[string]string, object string) (string, error) {
	contents, ok := have[object]
	if !ok {
		return "", fault.New(fault.InvalidClass, "the volume has no file %q%s", params.Clip(object), class.DidYouMean(object, slices.Sorted(maps.Keys(have))))
	}
	return contents, nil
}
