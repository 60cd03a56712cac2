package vault

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	fieldName       = "objectName"
	fieldPath       = "secretPath"
	fieldKey        = "secretKey"
	fieldMethod     = "method"
	fieldArgs       = "secretArgs"
	fieldPermission = "filePermission"
	fieldEncoding   = "encoding"
	fieldOptional   = "optional"

	maxObjects  = 1000
	maxArgsSize = 256 << 10
)

func objectFields() []string {
	return []string{fieldName, fieldPath, fieldKey, fieldMethod, fieldArgs, fieldPermission, fieldEncoding, fieldOptional}
}

// encoding is how a value is written in the store.
type encoding string

const (
	plain       encoding = "utf-8"
	base64Coded encoding = "base64"
	hexCoded    encoding = "hex"
)

// object is one file of a class: which value of which request it holds.
type object struct {
	index    int
	name     string
	key      string // empty for the whole answer
	mode     fs.FileMode
	encoding encoding
	optional bool
	request  *request
}

// String is how errors name the object.
func (o *object) String() string {
	return fmt.Sprintf("spec.parameters.objects[%d] %q", o.index, o.name)
}

// request is one distinct question to the store. Objects that ask the same
// share one, so their values always come from one answer.
type request struct {
	id     string
	method string
	path   string
	query  url.Values
	body   []byte
	// whole tells that some object wants the entire answer.
	whole bool
}

// String is how errors and logs name the request; arguments are left out.
func (r *request) String() string {
	s := r.path
	if len(r.query) > 0 {
		s += "?" + r.query.Encode()
	}
	if r.method == http.MethodGet {
		return strconv.Quote(s)
	}
	return r.method + " " + strconv.Quote(s)
}

// parseObjects reads the objects parameter, and makes objects that ask the
// store the same thing share one request.
func (p *params) parseObjects() ([]*object, []*request) {
	path := p.field(keyObjects)
	text, ok := p.values[keyObjects]
	if !ok {
		p.errs = append(p.errs, field.Required(path, "a YAML list of at least one object"))
		return nil, nil
	}
	root, err := parseYAML(text)
	switch {
	case err != nil:
		p.invalid(keyObjects, err.Error())
	case root == nil || (root.Kind == yaml.SequenceNode && len(root.Content) == 0):
		p.errs = append(p.errs, field.Required(path, "a YAML list of at least one object"))
	case root.Kind != yaml.SequenceNode:
		p.invalid(keyObjects, fmt.Sprintf("line %d: must be a YAML list of objects, each beginning with \"- \", not %s", root.Line, kindOf(root)))
	case len(root.Content) > maxObjects:
		p.errs = append(p.errs, field.TooMany(path, len(root.Content), maxObjects))
	default:
		return p.objectList(root)
	}
	return nil, nil
}

func (p *params) objectList(root *yaml.Node) ([]*object, []*request) {
	var objects []*object
	var requests []*request
	known := map[string]*request{}
	left := maxYAMLNodes
	for i, n := range root.Content {
		r := objectReader{params: p, path: p.field(keyObjects).Index(i), left: &left}
		o := r.read(i, resolve(n))
		if o == nil {
			continue
		}
		objects = append(objects, o)
		if same, ok := known[o.request.id]; ok {
			same.whole = same.whole || o.request.whole
			o.request = same
			continue
		}
		known[o.request.id] = o.request
		requests = append(requests, o.request)
	}
	p.checkNames(objects)
	return objects, requests
}

// checkNames refuses names given twice, and those that would have to be both a
// file and a directory.
func (p *params) checkNames(objects []*object) {
	first := map[string]int{}
	for _, o := range objects {
		path := p.field(keyObjects).Index(o.index).Child(fieldName)
		if i, ok := first[o.name]; ok && o.name != "" {
			p.errs = append(p.errs, &field.Error{Type: field.ErrorTypeDuplicate, Field: path.String(), BadValue: clip(o.name),
				Detail: fmt.Sprintf("objects[%d] has this name too", i)})
			continue
		}
		first[o.name] = o.index
	}
	for _, o := range objects {
		for dir := parent(o.name); dir != ""; dir = parent(dir) {
			if i, ok := first[dir]; ok {
				path := p.field(keyObjects).Index(o.index).Child(fieldName)
				p.errs = append(p.errs, field.Invalid(path, clip(o.name), fmt.Sprintf("objects[%d] is the file %q, so it cannot be a directory", i, clip(dir))))
			}
		}
	}
}

func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		return name[:i]
	}
	return ""
}
