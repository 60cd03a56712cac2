// Package manifest reads Kubernetes objects from files for the commands that need no cluster, and
// knows the line of each part of them.
package manifest

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
	// maxInput bounds one file, such as the whole output of Helm, in bytes.
	maxInput = 64 << 20
	// maxNodes bounds one document with its aliases expanded.
	maxNodes = 500_000
	// maxLists bounds nested lists.
	maxLists = 4
)

// KindClass is the kind of the objects that the driver reads.
const KindClass = "SecretProviderClass"

// Object is one Kubernetes object of the files.
type Object struct {
	finding.Object
	File string
	// Before is how many lines of the file come before the object's document.
	Before int
	Node   *yaml.Node

	left *int // how many more nodes of the document may be read
}

// Line is the file's line of a node.
func (o *Object) Line(n *yaml.Node) int { return o.Before + max(n.Line, 1) }

// take is the callback for class.Entries.
func (o *Object) take(*yaml.Node) error {
	*o.left--
	if *o.left < 0 {
		return class.ErrNested
	}
	return nil
}

// Entries lists a map; nothing if it is not a map.
func (o *Object) Entries(n *yaml.Node) []class.Entry {
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

// Get finds a value by its keys; nil if there is none.
func (o *Object) Get(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		list := o.Entries(n)
		i := slices.IndexFunc(list, func(e class.Entry) bool { return e.Key == key })
		if i < 0 {
			return nil
		}
		n = class.Resolve(list[i].Value)
	}
	return n
}

// Text is the scalar at the keys; empty if there is none.
func (o *Object) Text(n *yaml.Node, keys ...string) string {
	if v := o.Get(n, keys...); v != nil && v.Kind == yaml.ScalarNode && v.ShortTag() != "!!null" {
		return v.Value
	}
	return ""
}

// Items are the elements of the list at the keys.
func (o *Object) Items(n *yaml.Node, keys ...string) []*yaml.Node {
	n = o.Get(n, keys...)
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

// Source reads files.
type Source struct {
	// Report receives what cannot be read, and the numbers of files and objects.
	Report *finding.Report
	Stdin  io.Reader
	// Take receives each object, and Text each document with a class.
	Take func(*Object)
	Text func(file string, d class.Document)
}

// Read reads a file, a directory or "-".
func (s *Source) Read(name string) error {
	if name == "-" {
		return s.ReadAll(finding.Stdin, s.Stdin)
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

func (s *Source) open(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading manifests: %w", err)
	}
	defer file.Close()
	return s.ReadAll(filepath.Clean(name), file)
}

// ReadAll reads a text; name is its name in findings.
func (s *Source) ReadAll(name string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) > maxInput {
		return fmt.Errorf("reading %s: it has more than %d bytes", name, maxInput)
	}
	s.Report.Files++
	for _, d := range class.Documents(data) {
		s.document(name, d)
	}
	return nil
}

func (s *Source) document(name string, d class.Document) {
	nodes, err := d.Nodes()
	if err != nil {
		line, message := Place(err)
		f := finding.Finding{File: name, Line: max(line, d.Before+1), Message: message}
		if strings.Contains(string(d.Text), "{{") {
			f.Level, f.Remedy = finding.Warning, "this looks like a template: lint the output of helm template"
		}
		s.Report.Add(finding.CodeUnreadable, f)
	}
	left, classes := maxNodes, false
	for _, n := range nodes {
		s.object(&Object{File: name, Before: d.Before, Node: n, left: &left}, 0, &classes)
	}
	if classes && err == nil {
		s.Text(name, d)
	}
}

// object passes an object to Take, or those of a list. It ignores an object without a kind, such as
// a chart's values.
func (s *Source) object(o *Object, depth int, classes *bool) {
	o.Kind = o.Text(o.Node, "kind")
	switch {
	case o.Kind == "" || o.Text(o.Node, "apiVersion") == "":
		return
	case strings.HasSuffix(o.Kind, "List") && depth < maxLists:
		for _, item := range o.Items(o.Node, "items") {
			s.object(&Object{File: o.File, Before: o.Before, Node: item, left: o.left}, depth+1, classes)
		}
		return
	}
	o.Namespace, o.Name = o.Text(o.Node, "metadata", "namespace"), o.Text(o.Node, "metadata", "name")
	*classes = *classes || o.Kind == KindClass
	s.Report.Objects++
	s.Take(o)
}

var placed = regexp.MustCompile(`^document \d+, (?:near |after )?line (\d+): (?s:(.*))$`)

// Place returns the line at the beginning of an error from pkg/class; 0 if there is none.
func Place(err error) (line int, message string) {
	match := placed.FindStringSubmatch(err.Error())
	if match == nil {
		return 0, err.Error()
	}
	line, _ = strconv.Atoi(match[1])
	return line, match[2]
}

// Each yields the mistakes in an error one by one.
func Each(err error) []error {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		return many.Unwrap()
	}
	return []error{err}
}

// PodPath is the path of the pod's spec in an object of a kind; nil for a kind that makes no pods.
func PodPath(kind string) []string {
	switch kind {
	case "Pod":
		return []string{"spec"}
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job":
		return []string{"spec", "template", "spec"}
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	return nil
}
