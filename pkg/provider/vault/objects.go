package vault

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

const (
	fieldName     = "objectName"
	fieldPath     = "secretPath"
	fieldMethod   = "method"
	fieldArgs     = "secretArgs"
	fieldInterval = class.RefreshIntervalKey

	methodList  = "LIST"
	maxArgsSize = 256 << 10
)

func objectFields() []string {
	return append([]string{fieldName, fieldPath, fieldMethod, fieldArgs, fieldInterval}, params.ObjectFields()...)
}

// newObjects reads the listed objects, and the request of each; least is the shortest interval that
// the operator allows.
func newObjects(listed []params.Object, least time.Duration) []*session.Object {
	objects := make([]*session.Object, len(listed))
	for i := range listed {
		objects[i] = newObject(&listed[i], least)
	}
	shareArguments(listed, objects)
	for _, o := range objects {
		q := queryOf(o.Request)
		q.finish()
		o.Request.ID, o.Request.Name = q.id(), q.String()
	}
	return objects
}

func newObject(raw *params.Object, least time.Duration) *session.Object {
	o, q := session.ReadObject(raw), &request{method: http.MethodGet}
	o.Request = &session.Request{Query: q}
	for _, f := range raw.Fields {
		set(o, q, f)
	}
	if !raw.Has(fieldName) && !raw.HasKeys() {
		raw.Required(fieldName, objectFields())
	}
	if !raw.Has(fieldPath) {
		raw.Required(fieldPath, objectFields())
	}
	if own := o.Request.Interval; own > 0 && own < least {
		raw.Warn(fieldInterval, "is less than the operator allows: %s is used: %s", least, setting.Name("--min-refresh-interval"))
		o.Request.Interval = least
	}
	if o.Encoding != params.Plain && !raw.HasKey() {
		raw.Warn("encoding", "ignored: it needs a secretKey, and without one the file holds the whole answer as JSON")
		o.Encoding = params.Plain
	}
	if q.body != nil && (q.method == http.MethodGet || q.method == methodList) {
		raw.Warn(fieldArgs, "is not sent with method GET, which takes arguments in secretPath after a question mark; did you mean method: POST?")
		q.body = nil
	}
	return o
}

// shareArguments gives an object without arguments those of the other objects with the
// same path: a certificate and its key must come from one answer, and manifests have the
// arguments only once. If there are several, it is unclear which are meant.
func shareArguments(listed []params.Object, objects []*session.Object) {
	of := func(r *request) string { return strings.Join([]string{r.method, r.path, r.query.Encode()}, "\n") }
	given := map[string][]*session.Object{} // one object for each set of arguments
	for _, o := range objects {
		q := queryOf(o.Request)
		same := func(other *session.Object) bool { return bytes.Equal(queryOf(other.Request).body, q.body) }
		if at := of(q); q.body != nil && !slices.ContainsFunc(given[at], same) {
			given[at] = append(given[at], o)
		}
	}
	for i, o := range objects {
		q := queryOf(o.Request)
		switch with := given[of(q)]; {
		case q.body != nil || len(with) == 0:
		case len(with) == 1:
			q.body = queryOf(with[0].Request).body
		default:
			listed[i].Forbid(fieldArgs, fmt.Sprintf("must be given: objects[%d] %q and objects[%d] %q ask %s with different arguments, and it cannot be told whose answer this one is to take",
				with[0].Index, with[0].Name, with[1].Index, with[1].Name, q))
		}
	}
}

// finish completes a request with the method LIST, which is a GET.
func (r *request) finish() {
	if r.method == methodList {
		r.method = http.MethodGet
		if r.query == nil {
			r.query = url.Values{}
		}
		r.query.Set("list", "true")
	}
}

// id is the same for equal requests.
func (r *request) id() string {
	return strings.Join([]string{r.method, r.path, r.query.Encode(), string(r.body)}, "\n")
}

func set(o *session.Object, q *request, f params.Field) {
	switch f.Name {
	case fieldName:
		o.Name = f.FileName()
	case fieldPath:
		q.setPath(f)
	case fieldMethod:
		q.setMethod(f)
	case fieldArgs:
		q.body = arguments(f)
	case fieldInterval:
		o.Request.Interval = f.Interval()
	default:
		if !slices.Contains(params.ObjectFields(), f.Name) { // whose methods read it
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
