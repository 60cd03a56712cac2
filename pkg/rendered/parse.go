package rendered

import (
	"fmt"
	"maps"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/rendered/envfile"
	"github.com/mayfly-csi/mayfly/pkg/rendered/keystore"
	"github.com/mayfly-csi/mayfly/pkg/rendered/tmpl"
)

// The fields of an entry.
const (
	fieldName        = "fileName"
	fieldText        = "text"
	fieldFormat      = "format"
	fieldCertificate = "certificate"
	fieldKey         = "key"
	fieldChain       = "chain"
	fieldPassword    = "password"
	fieldAlias       = "alias"
	fieldVariables   = "variables"
)

// formatEnv is a file of variables. The other formats are those of package keystore.
const formatEnv = "env"

const maxVariables = 1000

// fields returns the fields that an entry of a list may have.
func fields(key string) []string {
	own := map[string][]string{
		class.TemplatesKey:   {fieldName, fieldText},
		class.FormatsKey:     {fieldName, fieldFormat, fieldCertificate, fieldKey, fieldChain, fieldPassword, fieldAlias, fieldVariables},
		class.PermissionsKey: {fieldName},
	}
	return append(own[key], params.AccessFields()...)
}

// newFile reads an entry of a list.
func newFile(key string, o *params.Object) File {
	f := File{Field: o.Path("").String(), Access: o.Access()}
	known, given := fields(key), map[string]params.Field{}
	required := []string{fieldName}
	switch key {
	case class.TemplatesKey:
		required = append(required, fieldText)
	case class.FormatsKey:
		f.made, required = &made{}, append(required, fieldFormat)
	case class.PermissionsKey:
		if f.Access == (params.Access{}) {
			o.Forbid("", "has none of mode, uid and gid")
		}
	}
	for _, field := range o.Fields {
		given[field.Name] = field
		switch field.Name {
		case fieldName:
			f.Path = field.FileName()
		default:
			if !slices.Contains(known, field.Name) {
				field.Unknown(known)
			}
		}
	}
	for _, name := range required {
		if _, ok := given[name]; !ok {
			o.Required(name, known)
		}
	}
	if text, ok := given[fieldText]; ok && f.made == nil {
		var bad *tmpl.Error
		if f.template, bad = tmpl.Compile(text.Text()); bad != nil {
			text.InvalidAt(bad.Line, fmt.Sprintf("the template %q: %s", params.Clip(f.Path), bad.What))
		}
	}
	if format, ok := given[fieldFormat]; ok && f.made != nil {
		f.made.read(o, format, given)
	}
	return f
}

// read reads the fields of the format.
func (m *made) read(o *params.Object, format params.Field, given map[string]params.Field) {
	m.format = format.Text()
	m.field = o.Path("").String()
	parts := map[string]*string{fieldCertificate: &m.certificate, fieldKey: &m.key, fieldChain: &m.chain}
	switch m.format {
	case formatEnv:
		parts = nil
		m.readVariables(o, given)
	case string(keystore.Bundle):
	case string(keystore.PKCS12):
		parts[fieldPassword] = &m.password
	case string(keystore.JKS):
		parts[fieldPassword], parts[fieldAlias] = &m.password, &m.alias
	default:
		format.Invalid("must be pkcs12, jks, pem-bundle or env")
		return
	}
	for _, name := range []string{fieldCertificate, fieldKey, fieldChain, fieldPassword, fieldAlias} {
		field, ok := given[name]
		to := parts[name]
		switch {
		case ok && to == nil:
			o.Forbid(name, "does not go with format "+m.format)
		case ok:
			*to = field.Text()
		}
	}
	if _, ok := given[fieldVariables]; ok && m.format != formatEnv {
		o.Forbid(fieldVariables, "goes with format env alone")
	}
	switch {
	case m.format == formatEnv:
	case (m.certificate == "") != (m.key == ""):
		o.Forbid(fieldCertificate, "certificate and key go together, each the file name of an object")
	case m.certificate == "" && m.chain == "":
		o.Required(fieldCertificate, fields(class.FormatsKey))
	}
}

func (m *made) readVariables(o *params.Object, given map[string]params.Field) {
	field, ok := given[fieldVariables]
	if !ok {
		o.Required(fieldVariables, fields(class.FormatsKey))
		return
	}
	values := field.Map()
	if len(values) > maxVariables {
		field.Invalid(fmt.Sprintf("has %d variables, more than %d", len(values), maxVariables))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		object, isText := values[name].(string)
		switch err := envfile.CheckName(name); {
		case err != nil:
			field.Invalid(fmt.Sprintf("the name %q cannot be used: %s", params.Clip(name), err))
		case !isText || object == "":
			field.Invalid(fmt.Sprintf("%s must be the file name of an object", name))
		default:
			m.variables = append(m.variables, variable{name, object})
		}
	}
	if len(values) == 0 {
		field.Invalid("has no variables")
	}
}
