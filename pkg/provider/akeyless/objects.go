package akeyless

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// The fields of an object.
const (
	fieldFile     = "fileName"
	fieldPath     = "secretPath"
	fieldType     = "secretType"
	fieldArgs     = "secretArgs"
	fieldVersion  = "secretVersion"
	fieldEncoding = "encoding"
	fieldOptional = "optional"
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
		fieldFile, fieldObjectName, fieldPath, fieldType, fieldArgs, fieldVersion, fieldEncoding, fieldOptional,
	}, params.ObjectFields()...)
}

// object is what a class uses of an item, and the item.
type object struct {
	session.Object
	item *item
}

// newObjects reads the list. Objects with the same item and arguments share it.
func newObjects(p *params.Set) (objects []*object, items []*item) {
	var files []params.NamedFile
	known := map[string]*item{}
	for _, raw := range p.Objects(keyObjects) {
		o := newObject(&raw)
		takes := raw.Takes(o.Name)
		files = append(files, raw.Named(fieldFile, takes)...)
		if same, ok := known[o.item.ID]; ok {
			o.item = same
		} else {
			known[o.item.ID] = o.item
			o.item.Query, o.item.Request.Name = o.item, o.item.name
			items = append(items, o.item)
		}
		o.Request = &o.item.Request
		for _, t := range takes {
			objects = append(objects, &object{o.Taking(t), o.item})
		}
	}
	p.CheckFiles(files)
	return objects, items
}

func newObject(raw *params.Object) *object {
	o := &object{Object: session.Object{Index: raw.Index, Access: raw.Access(), Encoding: params.Plain}, item: &item{}}
	given := map[string]bool{}
	var args *params.Field
	for _, f := range raw.Fields {
		given[f.Name] = true
		if f.Name == fieldArgs {
			args = &f
			continue
		}
		o.set(f)
	}
	switch {
	case given[fieldObjectName] && given[fieldFile]:
		raw.Forbid(fieldObjectName, "says the same as fileName, which is set too: keep one of them")
	case !given[fieldFile] && !given[fieldObjectName] && !raw.HasKeys():
		raw.Required(fieldFile, objectFields())
	}
	if !given[fieldPath] {
		raw.Required(fieldPath, objectFields())
	}
	if o.item.version != 0 && o.item.kind.issues() {
		raw.Forbid(fieldVersion, "a "+string(o.item.kind)+" item is made anew for each volume and has no versions")
	}
	if args != nil {
		o.item.args = newArguments(*args, o.item.kind)
	}
	o.item.ID = strings.Join([]string{string(o.item.kind), o.item.name, strconv.FormatInt(o.item.version, 10), o.item.args.id()}, "\n")
	return o
}

func (o *object) set(f params.Field) {
	switch f.Name {
	case fieldFile, fieldObjectName:
		o.Name = f.FileName()
	case fieldPath:
		o.item.name = itemName(f)
	case fieldType:
		text := f.Text()
		k, ok := kindOf(text)
		if _, is := f.IsText(); is && !ok {
			f.Warn("%q is not static, rotated, dynamic, certificate or pki, so Akeyless is asked for the item's type", params.Clip(text))
		}
		o.item.kind = k
	case fieldVersion:
		o.item.version = f.Number(1, maxVersion)
	case fieldEncoding:
		o.Encoding = f.Encoding()
	case fieldOptional:
		o.Optional = f.Bool()
	default:
		if !slices.Contains(params.ObjectFields(), f.Name) { // which newObject reads
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
