package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
)

// objectReader reads one item of the list.
type objectReader struct {
	*params
	path *field.Path
	left *int
}

func (r *objectReader) read(index int, n *yaml.Node) *object {
	if n.Kind != yaml.MappingNode {
		r.bad("", n, "must be a map with objectName and secretPath, not "+kindOf(n))
		return nil
	}
	list, err := entries(n)
	if err != nil {
		r.bad("", n, err.Error())
		return nil
	}
	o := &object{index: index, encoding: plain, request: &request{method: http.MethodGet}}
	had, before := map[string]bool{}, len(r.errs)
	for _, e := range list {
		had[e.key] = e.value.ShortTag() != "!!null"
		r.set(o, e)
	}
	for _, name := range []string{fieldName, fieldPath} {
		if !had[name] {
			r.errs = append(r.errs, field.Required(r.path.Child(name), fmt.Sprintf("of the object at line %d", n.Line)))
		}
	}
	r.finish(o)
	if len(r.errs) > before && o.name == "" {
		return nil
	}
	return o
}

// finish checks what concerns more than one field, and gives the request its
// identity.
func (r *objectReader) finish(o *object) {
	req := o.request
	if o.encoding != plain && o.key == "" {
		r.errs = append(r.errs, field.Forbidden(r.path.Child(fieldEncoding), "needs a secretKey: without one the file holds the whole answer as JSON"))
	}
	if req.body != nil && (req.method == http.MethodGet || req.method == "LIST") {
		r.warnings = append(r.warnings, r.path.Child(fieldArgs).String()+": is not sent with method GET, which takes arguments in secretPath after a question mark; did you mean method: POST?")
		req.body = nil
	}
	if req.method == "LIST" {
		req.method = http.MethodGet
		if req.query == nil {
			req.query = url.Values{}
		}
		req.query.Set("list", "true")
	}
	req.whole = o.key == ""
	req.id = strings.Join([]string{req.method, req.path, req.query.Encode(), string(req.body)}, "\n")
}

func (r *objectReader) set(o *object, e yamlEntry) {
	if e.value.ShortTag() == "!!null" && e.key != fieldArgs {
		return // "secretKey:" with nothing after it is as good as absent
	}
	switch e.key {
	case fieldName:
		r.name(o, e.value)
	case fieldPath:
		r.secretPath(o, e.value)
	case fieldKey:
		o.key = r.text(e)
	case fieldMethod:
		r.method(o, e)
	case fieldArgs:
		r.args(o, e.value)
	case fieldPermission:
		r.permission(o, e.value)
	case fieldEncoding:
		r.encoding(o, e)
	case fieldOptional:
		r.optional(o, e)
	default:
		r.warnings = append(r.warnings, fmt.Sprintf("%s: unknown, so ignored (line %d)%s", r.path.Child(clip(e.key)), e.line, didYouMean(e.key, objectFields())))
	}
}

func (r *objectReader) bad(name string, n *yaml.Node, detail string) {
	path := r.path
	if name != "" {
		path = path.Child(name)
	}
	value := ""
	if n.Kind == yaml.ScalarNode {
		value = clip(n.Value)
	}
	r.errs = append(r.errs, field.Invalid(path, value, fmt.Sprintf("line %d: %s", n.Line, detail)))
}

// text takes a scalar that YAML reads as text.
func (r *objectReader) text(e yamlEntry) string {
	if e.value.Kind != yaml.ScalarNode || e.value.ShortTag() != "!!str" {
		r.bad(e.key, e.value, "must be text, not "+kindOf(e.value)+`; put it in quotes if it is meant`)
		return ""
	}
	return e.value.Value
}

func (r *objectReader) name(o *object, n *yaml.Node) {
	name := r.text(yamlEntry{key: fieldName, value: n})
	if name == "" && n.ShortTag() != "!!str" {
		return
	}
	if err := atomicdir.ValidatePath(name); err != nil {
		r.bad(fieldName, n, "must be a relative path within the volume: "+reasonOf(err))
		return
	}
	o.name = name
}

func reasonOf(err error) string {
	if e, ok := err.(*atomicdir.PathError); ok { //nolint:errorlint // ValidatePath returns it bare
		return "it " + e.Reason
	}
	return err.Error()
}

func (r *objectReader) secretPath(o *object, n *yaml.Node) {
	text := r.text(yamlEntry{key: fieldPath, value: n})
	if text == "" && n.ShortTag() != "!!str" {
		return
	}
	path, query, err := parsePath(text)
	if err != nil {
		r.bad(fieldPath, n, err.Error())
		return
	}
	o.request.path, o.request.query = path, query
}

func (r *objectReader) method(o *object, e yamlEntry) {
	switch method := strings.ToUpper(r.text(e)); method {
	case http.MethodGet, http.MethodPost, http.MethodPut, "LIST":
		o.request.method = method
	case "":
	default:
		r.bad(fieldMethod, e.value, "must be GET, POST, PUT or LIST")
	}
}

func (r *objectReader) args(o *object, n *yaml.Node) {
	if n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.bad(fieldArgs, n, "must be a map of arguments, not "+kindOf(n))
		return
	}
	value, err := toJSON(n, 0, r.left)
	if err != nil {
		r.bad(fieldArgs, n, err.Error())
		return
	}
	body, err := encodeJSON(value)
	switch {
	case err != nil:
		r.bad(fieldArgs, n, "has no JSON form")
	case len(body) > maxArgsSize:
		r.bad(fieldArgs, n, fmt.Sprintf("is more than %d bytes as JSON", maxArgsSize))
	default:
		o.request.body = body
	}
}

func (r *objectReader) permission(o *object, n *yaml.Node) {
	const want = "must be a file mode from 0001 to 0777, in octal such as 0640 or 0o640, or in decimal such as 416"
	mode, err := parseMode(n.Value)
	switch {
	case n.Kind != yaml.ScalarNode:
		r.bad(fieldPermission, n, want+", not "+kindOf(n))
	case err != nil || mode > 0o777:
		r.bad(fieldPermission, n, want)
	default:
		o.mode = mode
	}
}

// parseMode takes YAML 1.1 and 1.2 octal and decimal. Zero is "the default",
// as it was for the class's authors so far.
func parseMode(text string) (fs.FileMode, error) {
	base, digits := 10, text
	if rest, ok := strings.CutPrefix(text, "0o"); ok {
		base, digits = 8, rest
	} else if strings.HasPrefix(text, "0") {
		base = 8
	}
	mode, err := strconv.ParseUint(digits, base, 32)
	return fs.FileMode(mode), err
}

func (r *objectReader) encoding(o *object, e yamlEntry) {
	switch enc := encoding(strings.ToLower(r.text(e))); enc {
	case plain, base64Coded, hexCoded:
		o.encoding = enc
	case "utf8":
		o.encoding = plain
	case "":
	default:
		r.bad(fieldEncoding, e.value, "must be utf-8, base64 or hex")
	}
}

func (r *objectReader) optional(o *object, e yamlEntry) {
	b, err := strconv.ParseBool(e.value.Value)
	if e.value.Kind != yaml.ScalarNode || err != nil {
		r.bad(fieldOptional, e.value, "must be true or false")
	}
	o.optional = b
}

// encodeJSON is compact JSON as people write it: no HTML escapes, no newline.
func encodeJSON(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
