package akeyless

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// The fields of an object.
const (
	fieldFile    = "fileName"
	fieldPath    = "secretPath"
	fieldType    = "secretType"
	fieldArgs    = "secretArgs"
	fieldVersion = "secretVersion"
	// fieldObjectName is the name of fileName in early versions of the Akeyless CSI
	// provider.
	fieldObjectName = "objectName"
)

const (
	maxPath    = 1024
	maxVersion = 1 << 30
)

func objectFields() []string {
	return append([]string{
		fieldFile, fieldObjectName, fieldPath, fieldType, fieldArgs, fieldVersion,
	}, params.ObjectFields()...)
}

// newObjects reads the listed objects, and the item of each.
func newObjects(listed []params.Object) []*session.Object {
	objects := make([]*session.Object, len(listed))
	for i := range listed {
		objects[i] = newObject(&listed[i])
	}
	return objects
}

func newObject(raw *params.Object) *session.Object {
	o, it := session.ReadObject(raw), &item{}
	var args *params.Field
	for _, f := range raw.Fields {
		if f.Name == fieldArgs {
			args = &f
			continue
		}
		set(o, it, f)
	}
	switch {
	case raw.Has(fieldObjectName) && raw.Has(fieldFile):
		raw.Forbid(fieldObjectName, "says the same as fileName, which is set too: keep one of them")
	case !raw.Has(fieldFile) && !raw.Has(fieldObjectName) && !raw.HasKeys():
		raw.Required(fieldFile, objectFields())
	}
	if !raw.Has(fieldPath) {
		raw.Required(fieldPath, objectFields())
	}
	if it.version != 0 && it.kind.issues() {
		raw.Forbid(fieldVersion, "a "+string(it.kind)+" item is created again for each volume and has no versions")
	}
	if args != nil {
		it.args = newArguments(*args, it.kind)
	}
	o.Request = &session.Request{ID: it.id(), Name: it.name, Query: it}
	return o
}

func set(o *session.Object, it *item, f params.Field) {
	switch f.Name {
	case fieldFile, fieldObjectName:
		o.Name = f.FileName()
	case fieldPath:
		it.name = itemName(f)
	case fieldType:
		text := f.Text()
		k, ok := kindOf(text)
		if _, is := f.IsText(); is && !ok {
			f.Warn("%q is not static, rotated, dynamic, certificate or pki, so Akeyless is asked for the item's type", params.Clip(text))
		}
		it.kind = k
	case fieldVersion:
		it.version = f.Number(1, maxVersion)
	default:
		if !slices.Contains(params.ObjectFields(), f.Name) { // whose methods read it
			f.Unknown(objectFields())
		}
	}
}

// itemName returns an item's full name, which begins with a slash, also if that of the
// class does not.
func itemName(f params.Field) string {
	text, is := f.IsText()
	name := "/" + strings.Trim(text, "/")
	switch {
	case !is:
	case name == "/":
		f.Invalid("must be the full name of an item, such as /app/db-password")
	case len(name) > maxPath || endpoint.HasControl(name):
		f.Invalid(fmt.Sprintf("must be at most %d bytes without control characters", maxPath))
	default:
		return name
	}
	return ""
}
