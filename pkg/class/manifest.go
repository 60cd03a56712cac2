package class

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// MaxManifest is the maximum size for ParseManifest in bytes.
	MaxManifest = 2 << 20
	// maxExpanded bounds a manifest with its aliases expanded, in bytes: a manifest without aliases
	// cannot reach it.
	maxExpanded = 4 * MaxManifest
	// maxMarks bounds what the YAML parser allocates for a document, to about 60 MiB.
	maxMarks = 150_000
	// maxLists bounds nested lists.
	maxLists = 4
	// maxNesting bounds aliases to aliases, and nested merges.
	maxNesting = 64
	// maxMistakes bounds the mistakes, and the warnings, that are reported.
	maxMistakes = 50
)

// ParseManifest reads the classes of a manifest: YAML or JSON, any number of documents, lists of
// classes too, versions v1 and v1alpha1 alike. It warns of an object that is no class, and of a
// field that no class has.
//
// The error names the mistakes, each with its document, counted from 1, and its line. Classes of
// documents without a mistake are returned with the error. A namespace that the manifest leaves out
// stays empty.
func ParseManifest(data []byte) (classes []*v1.SecretProviderClass, warnings []string, err error) {
	if len(data) > MaxManifest {
		return nil, nil, fmt.Errorf("is %d bytes long, of which a manifest may have %d", len(data), MaxManifest)
	}
	m := &manifest{budget: maxExpanded}
	for i, d := range Documents(data) {
		m.document(i+1, d)
	}
	if len(m.mistakes) > 0 {
		return m.classes, m.warnings, m.mistakes
	}
	return m.classes, m.warnings, nil
}

// manifest collects the classes, warnings and mistakes of the documents.
type manifest struct {
	classes  []*v1.SecretProviderClass
	warnings []string
	mistakes fault.List
	// budget is how many more bytes may be read, with aliases expanded.
	budget int
}

// Document is one document of a manifest.
type Document struct {
	Text []byte
	// Before is how many lines of the manifest come before the text.
	Before int
}

// Documents splits a manifest, YAML or JSON, at its "---" lines, so that a document which cannot be
// parsed does not hide those after it. It leaves out the documents with nothing but comments.
func Documents(data []byte) []Document {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	docs := []Document{}
	start, line, before := 0, 0, 0
	for at := 0; at < len(data); line++ {
		end := len(data)
		if n := bytes.IndexByte(data[at:], '\n'); n >= 0 {
			end = at + n + 1
		}
		if rest, ok := bytes.CutPrefix(data[at:end], []byte("---")); ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0) {
			docs = appendDocument(docs, Document{data[start:at], before})
			// Text on the marker's line belongs to the document.
			start, before = at+len("---"), line
		}
		at = end
	}
	return appendDocument(docs, Document{data[start:], before})
}

// appendDocument leaves out a document with nothing but comments and directives.
func appendDocument(docs []Document, d Document) []Document {
	for line := range bytes.Lines(d.Text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return append(docs, d)
		}
	}
	return docs
}

func (m *manifest) document(index int, d Document) {
	r := &reader{manifest: m, index: index, before: d.Before}
	nodes, err := r.parse(d.Text)
	if err != nil && len(m.mistakes) < maxMistakes {
		m.mistakes = append(m.mistakes, err)
	}
	for _, n := range nodes {
		r.object(nil, n, 0)
	}
}

// reader reads one document of a manifest.
type reader struct {
	*manifest
	index  int
	before int
	failed bool // a mistake was found in the object being read
}

// parse parses a document as JSON if it starts like JSON and is valid; else as YAML, whose flow
// style looks like JSON.
func (r *reader) parse(text []byte) ([]*yaml.Node, error) {
	if bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		nodes, jsonErr := parseJSON(text)
		if jsonErr == nil {
			return nodes, nil
		}
		if nodes, err := parseYAML(text); err == nil {
			return nodes, nil
		}
		return nil, r.place(jsonErr)
	}
	nodes, err := parseYAML(text)
	return nodes, r.place(err)
}

// syntaxError says that a document is neither JSON nor YAML; the line counts from the document's
// start and is 0 if it is unknown.
type syntaxError struct {
	line int
	text string
}

func (e *syntaxError) Error() string { return e.text }

// place adds the position to a syntax error. The YAML parser names the line of the mistake, or the
// one where the current value began.
func (r *reader) place(err error) error {
	if err == nil {
		return nil
	}
	if syntax, ok := errors.AsType[*syntaxError](err); ok && syntax.line > 0 {
		return fmt.Errorf("document %d, near line %d: %w", r.index, r.before+syntax.line, err)
	}
	return fmt.Errorf("document %d, after line %d: %w", r.index, r.before, err)
}

func (r *reader) fail(path *field.Path, n *yaml.Node, format string, args ...any) {
	r.failed = true
	if len(r.mistakes) < maxMistakes {
		r.mistakes = append(r.mistakes, errors.New(r.at(path, n)+fmt.Sprintf(format, args...)))
	}
}

func (r *reader) warn(path *field.Path, n *yaml.Node, format string, args ...any) {
	if len(r.warnings) < maxMistakes {
		r.warnings = append(r.warnings, r.at(path, n)+fmt.Sprintf(format, args...))
	}
}

func (r *reader) at(path *field.Path, n *yaml.Node) string {
	place := fmt.Sprintf("document %d, line %d: ", r.index, r.before+n.Line)
	if path == nil {
		return place
	}
	return place + path.String() + ": "
}

// object reads a class or a list, and skips anything else.
func (r *reader) object(path *field.Path, n *yaml.Node, depth int) {
	if depth == 0 && isNull(n) {
		return
	}
	r.failed = false
	pairs := r.pairs(path, n)
	kind, version := r.peek(pairs, "kind"), r.peek(pairs, "apiVersion")
	group, version, _ := strings.Cut(version, "/")
	switch {
	case r.failed:
	case kind == "":
		r.fail(child(path, "kind"), n, "is missing")
	case kind == "List" || kind == "SecretProviderClassList":
		r.list(path, pairs, depth)
	case kind != "SecretProviderClass" || group != v1.GroupName && group != "":
		r.warn(path, n, "this %s is no SecretProviderClass of %s and is ignored", clip(kind), v1.GroupName)
	case version != v1.Version && version != v1alpha1.Version:
		r.fail(child(path, "apiVersion"), n, "must be %s/%s", v1.GroupName, v1.Version)
	default:
		r.class(path, n, pairs)
	}
}

func (r *reader) list(path *field.Path, pairs []Entry, depth int) {
	for _, p := range pairs {
		if p.Key != "items" {
			continue
		}
		items := child(path, "items")
		if depth == maxLists {
			r.fail(items, p.Value, "lists are nested too deeply")
			return
		}
		for i, n := range r.elements(items, p.Value) {
			r.object(items.Index(i), n, depth+1)
		}
	}
}

// peek reads a string that decides how to read the rest.
func (r *reader) peek(pairs []Entry, key string) string {
	for _, p := range pairs {
		if p.Key == key {
			return r.text(field.NewPath(key), p.Value)
		}
	}
	return ""
}

func child(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}
