package akeyless

import (
	"encoding/json"
	"fmt"
	"maps"
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
	fieldKey      = "secretKey"
	fieldVersion  = "secretVersion"
	fieldEncoding = "encoding"
	fieldOptional = "optional"
	// fieldObjectName is what early versions of the Akeyless CSI provider
	// called fileName.
	fieldObjectName = "objectName"
)

const (
	maxPath    = 1024
	maxVersion = 1 << 30
)

func objectFields() []string {
	return append([]string{
		fieldFile, fieldObjectName, fieldPath, fieldType, fieldArgs, fieldKey, fieldVersion, fieldEncoding, fieldOptional,
	}, params.AccessFields()...)
}

// kind is what an item is, and with that how it is read.
type kind string

const (
	detected    kind = "" // describe-item tells
	static      kind = "static"
	rotated     kind = "rotated"
	certificate kind = "certificate"
	dynamic     kind = "dynamic"
	pki         kind = "pki"
)

// issues tells whether every read makes a new credential.
func (k kind) issues() bool { return k == dynamic || k == pki }

// kindOf reads secretType and describe-item's item_type.
func kindOf(text string) (kind, bool) {
	switch strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(text)) {
	case "":
		return detected, true
	case "static", "static_secret":
		return static, true
	case "rotated", "rotated_secret":
		return rotated, true
	case "certificate":
		return certificate, true
	case "dynamic", "dynamic_secret":
		return dynamic, true
	case "pki", "pki_certificate", "pki_cert_issuer":
		return pki, true
	}
	return "", false
}

// object is one file of a class, and the item that it takes its value from.
type object struct {
	session.Object
	item *item
}

// item is one distinct thing to ask the store for.
type item struct {
	session.Request
	name    string
	kind    kind // as the class says; detected where it does not
	version int64
	args    arguments
}

// itemOf is the item of what the engine asks for.
func itemOf(r *session.Request) *item { return r.Query.(*item) } //nolint:forcetypeassert // newObjects sets it

// String is how errors and logs name the item; arguments are left out.
func (i *item) String() string {
	s := strconv.Quote(i.name)
	if i.version != 0 {
		s += " version " + strconv.FormatInt(i.version, 10)
	}
	if i.kind != detected {
		s = string(i.kind) + " item " + s
	} else {
		s = "item " + s
	}
	return s
}

// newObjects reads the list, and makes objects that ask for the same share
// one item.
func newObjects(p *params.Set) ([]*object, []*item) {
	var objects []*object
	var items []*item
	var files []params.NamedFile
	known, keys := map[string]*item{}, map[*item]map[string]struct{}{}
	for _, raw := range p.Objects(keyObjects) {
		o := newObject(&raw)
		if o.Name != "" {
			files = append(files, params.NamedFile{Name: o.Name, Index: o.Index, Path: raw.Path(fieldFile)})
		}
		if same, ok := known[o.item.ID]; ok {
			o.item = same
		} else {
			known[o.item.ID], keys[o.item] = o.item, map[string]struct{}{}
			items = append(items, o.item)
		}
		keys[o.item][o.Key] = struct{}{}
		objects = append(objects, o)
	}
	for _, it := range items {
		it.Query, it.Name = it, it.name
		it.Keys = slices.Sorted(maps.Keys(keys[it]))
		it.Flight = it.ID + "\n\n" + strings.Join(it.Keys, "\n")
	}
	for _, o := range objects {
		o.Request = &o.item.Request
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
	case !given[fieldFile] && !given[fieldObjectName]:
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
	case fieldKey:
		o.Key = f.Text()
	case fieldVersion:
		o.item.version = f.Number(1, maxVersion)
	case fieldEncoding:
		o.Encoding = f.Encoding()
	case fieldOptional:
		o.Optional = f.Bool()
	default:
		if !slices.Contains(params.AccessFields(), f.Name) { // which newObject reads
			f.Unknown(objectFields())
		}
	}
}

// itemName is an item's full name, which begins with a slash whether or not
// the class writes it.
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

// arguments are secretArgs, by their names in Akeyless' API. What they may be
// depends on the kind of the item.
type arguments map[string]string

// The arguments of a PKI certificate. keyType is Mayfly's own: the private key
// is made on the node and never leaves it.
const (
	argCommonName = "common-name"
	argAltNames   = "alt-names"
	argURISANs    = "uri-sans"
	argTTL        = "ttl"
	argKeyUsage   = "extended-key-usage"
	argCSR        = "csr-data-base64"
	argKeyType    = "key-type"
)

// The arguments of the other kinds that are fields of the request. All others
// of a dynamic secret are handed to its producer.
const (
	argHost    = "host"
	argTarget  = "target"
	argTimeout = "timeout"
)

func argumentNames(k kind) []string {
	switch k {
	case pki:
		return []string{argCommonName, argAltNames, argURISANs, argTTL, argKeyUsage, argCSR, argKeyType}
	case dynamic:
		return []string{argHost, argTarget, argTimeout}
	case rotated:
		return []string{argHost}
	}
	return nil
}

// newArguments reads secretArgs. Names may be written as in the API or in
// camel case, lists as lists or with commas.
func newArguments(f params.Field, k kind) arguments {
	if k == detected {
		f.Invalid("needs a secretType, because what the arguments mean depends on it")
		return nil
	}
	known := argumentNames(k)
	out := arguments{}
	raw := f.Map()
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		i := slices.IndexFunc(known, func(n string) bool { return plainName(n) == plainName(name) })
		text, err := argumentText(raw[name])
		switch {
		case err != nil:
			f.Invalid(fmt.Sprintf("%s: %s", params.Clip(name), err))
		case i >= 0:
			out[known[i]] = text
		case k == dynamic && name != "" && !strings.Contains(name, "="):
			out[name] = text
		default:
			f.Invalid(fmt.Sprintf("a %s item takes no argument %q%s", k, params.Clip(name), params.DidYouMean(name, known)))
		}
	}
	if text := out[argTimeout]; k == dynamic && text != "" {
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 300 {
			f.Invalid("timeout: must be a number of seconds from 1 to 300")
		}
	}
	return out.checked(f, k)
}

func (a arguments) checked(f params.Field, k kind) arguments {
	if k != pki {
		return a
	}
	if a[argKeyType] != "" {
		if _, ok := keyMakers()[a[argKeyType]]; !ok {
			f.Invalid(fmt.Sprintf("keyType: must be one of %s", strings.Join(slices.Sorted(maps.Keys(keyMakers())), ", ")))
		}
		if a[argCSR] != "" {
			f.Invalid("keyType and csrDataBase64 do not go together: a request of your own has a key of its own")
		}
	}
	return a
}

// argumentText is how a value is written in a request.
func argumentText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case json.Number:
		return v.String(), nil
	case []any:
		var parts []string
		for _, item := range v {
			text, isText := item.(string)
			if !isText {
				return "", fmt.Errorf("must be a list of texts")
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, ","), nil
	}
	text, err := params.JSON(v)
	return string(text), err
}

func plainName(name string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
}

// id is equal for equal arguments.
func (a arguments) id() string {
	if len(a) == 0 {
		return ""
	}
	text, err := json.Marshal(a) // sorted by name
	if err != nil {
		return ""
	}
	return string(text)
}

// producers are the arguments that a dynamic secret's producer gets.
func (a arguments) producers() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if !slices.Contains(argumentNames(dynamic), name) {
			list = append(list, name+"="+a[name])
		}
	}
	return list
}
