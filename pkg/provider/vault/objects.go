package vault

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

const (
	fieldName     = "objectName"
	fieldPath     = "secretPath"
	fieldMethod   = "method"
	fieldArgs     = "secretArgs"
	fieldEncoding = "encoding"
	fieldOptional = "optional"
	fieldInterval = class.RefreshIntervalKey

	methodList  = "LIST"
	maxArgsSize = 256 << 10
)

func objectFields() []string {
	return append([]string{fieldName, fieldPath, fieldMethod, fieldArgs, fieldEncoding, fieldOptional, fieldInterval}, params.ObjectFields()...)
}

// object is what a class uses of an answer, and its request.
type object struct {
	session.Object
	request *request
}

// newObjects reads the list. Objects with the same request share it.
func newObjects(p *params.Set) (objects []*object, requests []*request) {
	var files []params.NamedFile
	listed := p.Objects(keyObjects)
	list := make([]*object, len(listed))
	for i := range listed {
		list[i] = newObject(&listed[i])
	}
	shareArguments(listed, list)
	known := map[string]*request{}
	for i, o := range list {
		takes := listed[i].Takes(o.Name)
		files = append(files, listed[i].Named(fieldName, takes)...)
		o.request.finish(takes)
		if same, ok := known[o.request.ID]; ok {
			same.whole = same.whole || o.request.whole
			if own := o.request.Interval; own > 0 && (same.Interval == 0 || own < same.Interval) {
				same.Interval = own
			}
			o.request = same
		} else {
			known[o.request.ID] = o.request
			o.request.Query, o.request.Name = o.request, o.request.String()
			requests = append(requests, o.request)
		}
		o.Request = &o.request.Request
		for _, t := range takes {
			objects = append(objects, &object{o.Taking(t), o.request})
		}
	}
	p.CheckFiles(files)
	return objects, requests
}

func newObject(raw *params.Object) *object {
	o := &object{Object: session.Object{Index: raw.Index, Access: raw.Access(), Encoding: params.Plain}, request: &request{method: http.MethodGet}}
	given := map[string]bool{}
	for _, f := range raw.Fields {
		given[f.Name] = true
		o.set(f)
	}
	if !given[fieldName] && !raw.HasKeys() {
		raw.Required(fieldName, objectFields())
	}
	if !given[fieldPath] {
		raw.Required(fieldPath, objectFields())
	}
	if o.Encoding != params.Plain && !raw.HasKey() {
		raw.Warn(fieldEncoding, "ignored: it needs a secretKey, and without one the file holds the whole answer as JSON")
		o.Encoding = params.Plain
	}
	if r := o.request; r.body != nil && (r.method == http.MethodGet || r.method == methodList) {
		raw.Warn(fieldArgs, "is not sent with method GET, which takes arguments in secretPath after a question mark; did you mean method: POST?")
		r.body = nil
	}
	return o
}

// shareArguments gives an object without arguments those of the other objects with the
// same path: a certificate and its key must come from one answer, and manifests have the
// arguments only once. If there are several, it is unclear which are meant.
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
				with[0].Index, with[0].Name, with[1].Index, with[1].Name, o.request))
		}
	}
}

// finish sets the id of an object's request.
func (r *request) finish(takes []params.Take) {
	if r.method == methodList {
		r.method = http.MethodGet
		if r.query == nil {
			r.query = url.Values{}
		}
		r.query.Set("list", "true")
	}
	r.whole = slices.ContainsFunc(takes, func(t params.Take) bool { return t.Key == "" && !t.Every })
	r.ID = strings.Join([]string{r.method, r.path, r.query.Encode(), string(r.body)}, "\n")
}

func (o *object) set(f params.Field) {
	switch f.Name {
	case fieldName:
		o.Name = f.FileName()
	case fieldPath:
		o.request.setPath(f)
	case fieldMethod:
		o.request.setMethod(f)
	case fieldArgs:
		o.request.body = arguments(f)
	case fieldEncoding:
		o.Encoding = f.Encoding()
	case fieldOptional:
		o.Optional = f.Bool()
	case fieldInterval:
		o.request.Interval = f.Interval()
	default:
		if !slices.Contains(params.ObjectFields(), f.Name) { // which newObject reads
			f.Unknown(objectFields())
		}
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

// arguments returns the body of a request.
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
