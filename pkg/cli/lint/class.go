package lint

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/manifest"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
)

const (
	keyObjects     = "objects"
	objectsField   = "spec.parameters." + keyObjects
	parameterField = "spec.parameters."
)

// operatorsAddress stands for the address in the operator's flags.
const operatorsAddress = "https://vault.invalid:443"

// linted is a class of the files.
type linted struct {
	*manifest.Object
	class *class.Class // nil if it is refused
	login Login
	// files are those that differ in mode or owner.
	files []file
	// secrets are the names in spec.secretObjects.
	secrets []string
	// last is the file's last line of the object, 0 if not known yet.
	last int
	// lists are the parsed YAML lists of the objects, by the scalar that contains them; nil if it
	// is no list.
	lists map[*yaml.Node]*yaml.Node
}

// parsed is the result of pkg/class for the documents that have classes.
type parsed struct {
	classes map[string][]*v1.SecretProviderClass // by file
	said    []said
}

// said is one mistake that pkg/class found in a document.
type said struct {
	file    string
	line    int
	message string
	warning bool
	told    bool // as a finding about a class
}

func (s *said) code() string {
	if s.warning {
		return finding.CodeClassWarning
	}
	return finding.CodeRefused
}

// rest reports the mistakes outside of all classes' lines.
func (l *linter) rest() {
	for i := range l.parsed.said {
		if s := &l.parsed.said[i]; !s.told {
			l.report.Add(s.code(), finding.Finding{File: s.file, Line: s.line, Message: s.message})
		}
	}
}

func (p *parsed) add(file string, d class.Document) {
	classes, warnings, err := class.ParseManifest(d.Text)
	if p.classes == nil {
		p.classes = map[string][]*v1.SecretProviderClass{}
	}
	p.classes[file] = append(p.classes[file], classes...)
	note := func(err error, warning bool) {
		line, message := manifest.Place(err)
		p.said = append(p.said, said{file: file, line: d.Before + line, message: message, warning: warning})
	}
	if err != nil {
		for _, one := range manifest.Each(err) {
			note(one, false)
		}
	}
	for _, w := range warnings {
		// Objects of other kinds in a list are no mistake here.
		if !strings.Contains(w, "is no "+manifest.KindClass+" of") || strings.Contains(w, "this "+manifest.KindClass+" is") {
			note(errors.New(w), true)
		}
	}
}

// find removes the parsed object of a class and returns it.
func (p *parsed) find(o *manifest.Object) *v1.SecretProviderClass {
	list := p.classes[o.File]
	i := slices.IndexFunc(list, func(c *v1.SecretProviderClass) bool {
		return c.Name == o.Name && c.Namespace == o.Text(o.Node, "metadata", "namespace")
	})
	if i < 0 {
		return nil
	}
	found := list[i]
	p.classes[o.File] = slices.Delete(list, i, i+1)
	return found
}

// checker checks a class with the providers that need no store for that.
type checker struct {
	providers map[string]*session.Engine
	vaults    map[string]*vault.Provider
}

// newChecker assumes the operator's address for a class without one, if it is unknown.
func newChecker(o *Operator) (*checker, error) {
	if o == nil {
		o = &Operator{Vault: vault.Config{DefaultAddress: operatorsAddress}}
	}
	j := &checker{map[string]*session.Engine{}, map[string]*vault.Provider{}}
	for _, name := range []string{vault.NameVault, vault.NameOpenBao} {
		config := o.Vault
		config.Name = name
		p, err := vault.New(config)
		if err != nil {
			return nil, err
		}
		j.providers[name], j.vaults[name] = p.Engine, p
	}
	p, err := akeyless.New(o.Akeyless)
	if err != nil {
		return nil, err
	}
	j.providers[akeyless.Name] = p.Engine
	return j, nil
}

// result is a provider's result for a class, and the error that refuses it.
type result struct {
	login    Login
	warnings []string
	withData map[int]string // see vault.Provider.WithData
	err      error
}

// of checks a class; false for a plugin's class.
func (j *checker) of(c *class.Class) (v result, own bool) {
	p, own := j.providers[c.Provider]
	if !own {
		return v, false
	}
	v.warnings, v.err = p.Validate(c)
	login, err := p.Judge(c)
	switch isVault := j.vaults[c.Provider]; {
	case err != nil:
	case isVault != nil:
		v.login = Login{true, login.Audience, login.Address, login.Fallback, login.Namespace, login.Mount, login.Role, ""}
		v.withData = isVault.WithData(c)
	default:
		v.login = Login{Built: true, Audience: login.Audience, Address: login.Address, Fallback: login.Fallback, AccessID: login.Role}
	}
	return v, true
}

// class reports what the driver says about the class.
func (l *linter) class(c *linted) {
	for i := range l.parsed.said {
		if s := &l.parsed.said[i]; !s.told && s.file == c.File && c.holds(s.line) {
			s.told = true
			l.at(c.Object, s.line, s.code(), finding.Finding{Message: s.message})
		}
	}
	spc := l.parsed.find(c.Object)
	if spc == nil {
		return
	}
	for _, o := range spc.Spec.SecretObjects {
		c.secrets = append(c.secrets, o.SecretName)
	}
	parsed, warnings, err := class.Parse(spc)
	l.refused(c, err)
	l.doubtful(c, warnings)
	if err != nil {
		// The provider's mistakes in its own parameters are reported all the same.
		for _, key := range class.OwnKeys() {
			delete(spc.Spec.Parameters, key)
		}
		if parsed, _, err = class.Parse(spc); err != nil {
			return
		}
	}
	l.provider(c, parsed, spc.Spec.SecretObjects)
}

// holds reports whether a line of the file belongs to the object.
func (c *linted) holds(line int) bool {
	if c.last == 0 {
		c.last = c.Before + lastLine(c.Node, 0)
	}
	return line >= c.Line(c.Node)-1 && line <= c.last
}

// lastLine is the line of the last node of a tree.
func lastLine(n *yaml.Node, depth int) int {
	last := n.Line
	if n.Kind == yaml.ScalarNode {
		last += strings.Count(n.Value, "\n")
	}
	if depth < 100 {
		for _, child := range n.Content {
			last = max(last, lastLine(child, depth+1))
		}
	}
	return last
}

// provider reports mistakes in the class's lists, in the provider's parameters, and in entries, those
// of spec.secretObjects. A class with a bad list is not used; what the provider says of it is
// reported all the same.
func (l *linter) provider(c *linted, parsed *class.Class, entries []v1.SecretObject) {
	lists, warnings, bad := rendered.Parse(parsed)
	l.refused(c, bad)
	l.doubtful(c, warnings)
	v, own := l.checker.of(parsed)
	if !own {
		l.plugin(c, parsed)
		if bad == nil {
			c.class, c.files = parsed, filesOf(parsed, lists, false)
		}
		return
	}
	foreign := l.foreign(c, parsed)
	err := v.err
	warnings = slices.DeleteFunc(v.warnings, func(w string) bool { return slices.Contains(foreign, fieldOf(w)) })
	if len(fieldErrors(err)) > 0 || err != nil && (fault.Of(err) != fault.InvalidClass || parsed.Strict) {
		l.refused(c, err)
		l.doubtful(c, slices.DeleteFunc(warnings, func(w string) bool { return strings.Contains(err.Error(), w) }))
		return
	}
	l.doubtful(c, warnings)
	if bad == nil {
		c.class, c.files = parsed, filesOf(parsed, lists, true)
		l.missing(c, lists, entries)
	}
	c.login = v.login
	if c.login.Address == operatorsAddress {
		c.login.Address = ""
	}
	for i, path := range v.withData {
		where := fmt.Sprintf("%s[%d].secretPath", objectsField, i)
		l.at(c.Object, c.locate(where, ""), finding.CodeWithoutData, finding.Finding{
			Message: where + " has no data/ after the mount, as paths of a KV version 2 engine have",
			Remedy:  fmt.Sprintf("if a KV engine of version 2 is mounted there, write %s", path),
		})
	}
}

// fieldErrors are the invalid fields that an error names.
func fieldErrors(err error) []*field.Error {
	var found []*field.Error
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) { //nolint:errorlint // it is the walk over the tree
		case nil:
		case *field.Error:
			found = append(found, e)
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		case interface{ Errors() []error }: // apimachinery's Aggregate
			for _, one := range e.Errors() {
				walk(one)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return found
}

// refused reports each field that an error names, or else the error.
func (l *linter) refused(c *linted, err error) {
	if err == nil {
		return
	}
	bad := fieldErrors(err)
	for _, e := range bad {
		l.say(c, finding.CodeRefused, e.Field, e.Error())
	}
	if len(bad) == 0 {
		text := fault.Cause(err)
		hint := fault.Hint(err)
		where := fieldOf(text)
		l.at(c.Object, c.locate(where, text), finding.CodeRefused, finding.Finding{Message: c.reword(where, text), Remedy: hint})
	}
}

func (l *linter) doubtful(c *linted, warnings []string) {
	for _, w := range warnings {
		l.say(c, finding.CodeClassWarning, fieldOf(w), w)
	}
}

func (l *linter) say(c *linted, code, where, message string) {
	l.at(c.Object, c.locate(where, message), code, finding.Finding{Message: c.reword(where, message)})
}

// fieldOf is the field at the beginning of a message; empty if there is none.
func fieldOf(message string) string {
	where, _, found := strings.Cut(message, ": ")
	if !found || !strings.HasPrefix(where, "spec.") && !strings.HasPrefix(where, "metadata.") {
		return ""
	}
	return where
}

var (
	listField   = regexp.MustCompile(`^spec\.parameters\.(?:` + keyObjects + `|` + strings.Join(class.ListKeys(), "|") + `)\b`)
	innerLine   = regexp.MustCompile(`\bline (\d+)\b`)
	atInnerLine = regexp.MustCompile(` \(line \d+\)|line \d+: `)
	objectStep  = regexp.MustCompile(`^\[(\d+)\](?:\.(.+))?`)
	pathStep    = regexp.MustCompile(`\[(\d+)\]|\[([^\]]*)\]|[^.\[\]]+`)
)

// reword removes line numbers that count from the start of the objects: the finding has the file's
// line.
func (c *linted) reword(where, message string) string {
	if listField.FindString(where) == "" {
		return message
	}
	message = atInnerLine.ReplaceAllString(message, "")
	return innerLine.ReplaceAllString(message, fmt.Sprintf("line %d", c.locate(where, message)))
}

// locate is the file's line of a field, or of the nearest existing one around it. The message may
// name a line of the objects' own YAML.
func (c *linted) locate(where, message string) int {
	n := c.Node
	at := c.Line(n)
	for _, step := range pathStep.FindAllStringSubmatch(where, -1) {
		if i, err := strconv.Atoi(step[1]); err == nil && n.Kind == yaml.SequenceNode {
			if i >= len(n.Content) {
				return at
			}
			n = class.Resolve(n.Content[i])
			at = c.Line(n)
			continue
		}
		list := c.Entries(n)
		i := slices.IndexFunc(list, func(e class.Entry) bool { return e.Key == step[0] || e.Key == step[2] })
		if i < 0 {
			break
		}
		n, at = class.Resolve(list[i].Value), c.Line(list[i].Where)
	}
	if listField.MatchString(where) && n.Kind == yaml.ScalarNode {
		return at + c.inner(n, where, message)
	}
	return at
}

// inner is how many lines below the key a line of the objects' YAML is. It is known only for a
// literal block.
func (c *linted) inner(n *yaml.Node, where, message string) int {
	if n.Style&yaml.LiteralStyle == 0 {
		return 0
	}
	if match := innerLine.FindStringSubmatch(message); match != nil {
		line, _ := strconv.Atoi(match[1])
		return min(line, strings.Count(n.Value, "\n")+1)
	}
	index := objectStep.FindStringSubmatch(listField.ReplaceAllString(where, ""))
	if index == nil {
		return 0
	}
	list := c.listIn(n)
	i, _ := strconv.Atoi(index[1])
	if list == nil || i >= len(list.Content) {
		return 0
	}
	item := class.Resolve(list.Content[i])
	for _, e := range c.Entries(item) {
		if e.Key == index[2] {
			return e.Where.Line
		}
	}
	return item.Line
}

// listIn is the YAML list in a scalar; nil if it is none.
func (c *linted) listIn(n *yaml.Node) *yaml.Node {
	list, known := c.lists[n]
	if known {
		return list
	}
	nodes, _ := class.Document{Text: []byte(n.Value)}.Nodes()
	if len(nodes) == 1 && nodes[0].Kind == yaml.SequenceNode {
		list = nodes[0]
	}
	if c.lists == nil {
		c.lists = map[*yaml.Node]*yaml.Node{}
	}
	c.lists[n] = list
	return list
}
