package lint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

const (
	// maxInput is the most bytes of one file, such as all that Helm renders.
	maxInput = 64 << 20
	// maxNodes bounds what is read of one document, aliases followed.
	maxNodes = 500_000
	// maxLists bounds lists within lists.
	maxLists = 4
)

// object is one Kubernetes object of the files.
type object struct {
	finding.Object
	file   string
	before int // lines of the file before the object's document
	node   *yaml.Node
	left   *int // how many more nodes of the document may be read
}

// line is the file's line of a node.
func (o *object) line(n *yaml.Node) int { return o.before + max(n.Line, 1) }

// take is for class.Entries.
func (o *object) take(*yaml.Node) error {
	*o.left--
	if *o.left < 0 {
		return class.ErrNested
	}
	return nil
}

// entries lists a map; nothing of what is none.
func (o *object) entries(n *yaml.Node) []class.Entry {
	if n == nil {
		return nil
	}
	if n = class.Resolve(n); n.Kind != yaml.MappingNode {
		return nil
	}
	list, err := class.Entries(n, o.take)
	if err != nil {
		return nil
	}
	return list
}

// get finds a value by its keys; nil if there is none.
func (o *object) get(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		list := o.entries(n)
		i := slices.IndexFunc(list, func(e class.Entry) bool { return e.Key == key })
		if i < 0 {
			return nil
		}
		n = class.Resolve(list[i].Value)
	}
	return n
}

// text is the scalar at some keys; empty if there is none.
func (o *object) text(n *yaml.Node, keys ...string) string {
	if v := o.get(n, keys...); v != nil && v.Kind == yaml.ScalarNode && v.ShortTag() != "!!null" {
		return v.Value
	}
	return ""
}

// items are the elements of the list at some keys.
func (o *object) items(n *yaml.Node, keys ...string) []*yaml.Node {
	n = o.get(n, keys...)
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	var list []*yaml.Node
	for _, item := range n.Content {
		if o.take(item) != nil {
			break
		}
		list = append(list, class.Resolve(item))
	}
	return list
}

// source reads files and gives their objects to take.
type source struct {
	report *finding.Report
	stdin  io.Reader
	take   func(*object)
	text   func(file string, d class.Document)
}

// read takes a file, a directory or "-".
func (s *source) read(name string) error {
	if name == "-" {
		return s.readAll(finding.Stdin, s.stdin)
	}
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("reading manifests: %w", err)
	}
	if !info.IsDir() {
		return s.open(name)
	}
	return filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("reading manifests: %w", err)
		case d.IsDir() && path != name && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case d.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))):
			return s.open(path)
		}
		return nil
	})
}

func (s *source) open(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading manifests: %w", err)
	}
	defer file.Close()
	return s.readAll(filepath.Clean(name), file)
}

func (s *source) readAll(name string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) > maxInput {
		return fmt.Errorf("reading %s: it has more than %d bytes", name, maxInput)
	}
	s.report.Files++
	for _, d := range class.Documents(data) {
		s.document(name, d)
	}
	return nil
}

func (s *source) document(name string, d class.Document) {
	nodes, err := d.Nodes()
	if err != nil {
		line, message := place(err)
		f := finding.Finding{File: name, Line: max(line, d.Before+1), Message: message}
		if strings.Contains(string(d.Text), "{{") {
			f.Level, f.Remedy = finding.Warning, "this looks like a template: give lint what helm template renders"
		}
		s.report.Add(finding.CodeUnreadable, f)
	}
	left, classes := maxNodes, false
	for _, n := range nodes {
		s.object(&object{file: name, before: d.Before, node: n, left: &left}, 0, &classes)
	}
	if classes && err == nil {
		s.text(name, d)
	}
}

// object gives an object on, or those of a list. What has no kind, such as the
// values of a chart, is passed over.
func (s *source) object(o *object, depth int, classes *bool) {
	o.Kind = o.text(o.node, "kind")
	switch {
	case o.Kind == "" || o.text(o.node, "apiVersion") == "":
		return
	case strings.HasSuffix(o.Kind, "List") && depth < maxLists:
		for _, item := range o.items(o.node, "items") {
			s.object(&object{file: o.file, before: o.before, node: item, left: o.left}, depth+1, classes)
		}
		return
	}
	o.Namespace, o.Name = o.text(o.node, "metadata", "namespace"), o.text(o.node, "metadata", "name")
	*classes = *classes || o.Kind == kindClass
	s.report.Objects++
	s.take(o)
}

var placed = regexp.MustCompile(`^document \d+, (?:near |after )?line (\d+): (?s:(.*))$`)

// place takes the line from what pkg/class says of a manifest, which begins
// with it; 0 where it does not.
func place(err error) (line int, message string) {
	match := placed.FindStringSubmatch(err.Error())
	if match == nil {
		return 0, err.Error()
	}
	line, _ = strconv.Atoi(match[1])
	return line, match[2]
}

// each gives the mistakes that an error holds one by one.
func each(err error) []error {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		return many.Unwrap()
	}
	return []error{err}
}
