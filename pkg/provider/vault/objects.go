package vault

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
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
	fieldInterval   = class.RefreshIntervalKey

	methodList  = "LIST"
	maxArgsSize = 256 << 10
)

func objectFields() []string {
	return []string{fieldName, fieldPath, fieldKey, fieldMethod, fieldArgs, fieldPermission, fieldEncoding, fieldOptional, fieldInterval}
}

// object is one file of a class: which value of which request it holds.
type object struct {
	index    int
	name     string
	key      string // empty for the whole answer
	mode     fs.FileMode
	encoding params.Encoding
	optional bool
	request  *request
}

// String is how errors name the object.
func (o *object) String() string {
	return fmt.Sprintf("spec.parameters.objects[%d] %q", o.index, o.name)
}

// isVersion tells whether a version that a volume holds is the object's.
func (o *object) isVersion(v provider.Version) bool { return v.ID == o.name }

// request is one distinct question to the store. Objects that ask the same
// share one, so their values always come from one answer.
type request struct {
	id     string
	method string
	path   string
	query  url.Values
	body   []byte
	// interval is the shortest that stands on an object; zero for none.
	interval time.Duration
	// whole tells that some object wants the entire answer.
	whole bool
	// keys are what the objects take of the answer, sorted; "" stands for all
	// of it.
	keys []string
	// flight is equal for requests that one answer will do for.
	flight string
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

// newObjects reads the list, and makes objects that ask the store the same
// thing share one request.
func newObjects(p *params.Set) ([]*object, []*request) {
	var objects []*object
	var requests []*request
	var files []params.NamedFile
	listed := p.Objects(keyObjects)
	for i := range listed {
		o := newObject(&listed[i])
		objects = append(objects, o)
		if o.name != "" {
			files = append(files, params.NamedFile{Name: o.name, Index: o.index, Path: listed[i].Path(fieldName)})
		}
	}
	shareArguments(listed, objects)
	known, keys := map[string]*request{}, map[*request]map[string]struct{}{}
	for _, o := range objects {
		o.request.finish(o.key == "")
		if same, ok := known[o.request.id]; ok {
			same.whole = same.whole || o.request.whole
			if own := o.request.interval; own > 0 && (same.interval == 0 || own < same.interval) {
				same.interval = own
			}
			o.request = same
		} else {
			known[o.request.id], keys[o.request] = o.request, map[string]struct{}{}
			requests = append(requests, o.request)
		}
		keys[o.request][o.key] = struct{}{}
	}
	for _, r := range requests {
		r.keys = slices.Sorted(maps.Keys(keys[r]))
		r.flight = r.id + "\n\n" + strings.Join(r.keys, "\n")
	}
	p.CheckFiles(files)
	return objects, requests
}

func newObject(raw *params.Object) *object {
	o := &object{index: raw.Index, encoding: params.Plain, request: &request{method: http.MethodGet}}
	given := map[string]bool{}
	for _, f := range raw.Fields {
		given[f.Name] = true
		o.set(f)
	}
	for _, name := range []string{fieldName, fieldPath} {
		if !given[name] {
			raw.Required(name, objectFields())
		}
	}
	if o.encoding != params.Plain && o.key == "" {
		raw.Warn(fieldEncoding, "ignored: it needs a secretKey, and without one the file holds the whole answer as JSON")
		o.encoding = params.Plain
	}
	if r := o.request; r.body != nil && (r.method == http.MethodGet || r.method == methodList) {
		raw.Warn(fieldArgs, "is not sent with method GET, which takes arguments in secretPath after a question mark; did you mean method: POST?")
		r.body = nil
	}
	return o
}

// shareArguments gives an object without arguments those of the objects that
// ask the same path: a certificate and its key must come from one answer, and
// manifests write the arguments once. Where there are several it cannot be told
// which are meant.
func shareArguments(listed []params.Object, objects []*object) {
	of := func(r *request) string { return strings.Join([]string{r.method, r.path, r.query.Encode()}, "\n") }
	given := map[string][]*object{} // one object for each set of arguments
	for _, o := range objects {
		same := func(other *object) bool { return bytes.Equal(other.request.body, o.request.body) }
		if at := of(o.request); o.request.body != nil && !slices.ContainsFunc(given[at], same) {
			given[at] = append(given[at], o)
		}
	}
	for i, o := range objects {
		switch with := given[of(o.request)]; {
		case o.request.body != nil || len(with) == 0:
		case len(with) == 1:
			o.request.body = with[0].request.body
		default:
			listed[i].Forbid(fieldArgs, fmt.Sprintf("must be given: objects[%d] %q and objects[%d] %q ask %s with different arguments, and it cannot be told whose answer this one is to take",
				with[0].index, with[0].name, with[1].index, with[1].name, o.request))
		}
	}
}

// finish gives the request its identity.
func (r *request) finish(whole bool) {
	if r.method == methodList {
		r.method = http.MethodGet
		if r.query == nil {
			r.query = url.Values{}
		}
		r.query.Set("list", "true")
	}
	r.whole = whole
	r.id = strings.Join([]string{r.method, r.path, r.query.Encode(), string(r.body)}, "\n")
}

func (o *object) set(f params.Field) {
	switch f.Name {
	case fieldName:
		o.name = f.FileName()
	case fieldPath:
		o.request.setPath(f)
	case fieldKey:
		o.key = f.Text()
	case fieldMethod:
		o.request.setMethod(f)
	case fieldArgs:
		o.request.body = arguments(f)
	case fieldPermission:
		o.mode = f.Mode()
	case fieldEncoding:
		o.encoding = f.Encoding()
	case fieldOptional:
		o.optional = f.Bool()
	case fieldInterval:
		o.request.interval = f.Interval()
	default:
		f.Unknown(objectFields())
	}
}

func (r *request) setPath(f params.Field) {
	text, ok := f.IsText()
	if !ok {
		return
	}
	path, query, err := parsePath(text)
	if err != nil {
		f.Invalid(err.Error())
		return
	}
	r.path, r.query = path, query
}

func (r *request) setMethod(f params.Field) {
	switch method := strings.ToUpper(f.Text()); method {
	case http.MethodGet, http.MethodPost, http.MethodPut, methodList:
		r.method = method
	case "":
	default:
		f.Invalid("must be GET, POST, PUT or LIST")
	}
}

// arguments are the body of a request.
func arguments(f params.Field) []byte {
	values := f.Map()
	if values == nil {
		return nil
	}
	body, err := params.JSON(values)
	switch {
	case err != nil:
		f.Invalid("has no JSON form")
	case len(body) > maxArgsSize:
		f.Invalid(fmt.Sprintf("is more than %d bytes as JSON", maxArgsSize))
	default:
		return body
	}
	return nil
}
