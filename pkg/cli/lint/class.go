package lint

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

const (
	keyObjects     = "objects"
	fieldMode      = "filePermission"
	defaultMode    = fs.FileMode(0o644)
	objectsField   = "spec.parameters." + keyObjects
	parameterField = "spec.parameters."
)

// operatorsAddress stands for the address that the operator's flags give.
const operatorsAddress = "https://vault.invalid"

// linted is a class of the files.
type linted struct {
	*object
	class *class.Class // nil for one that is refused
	login Login
	// modes are those of the files, each once.
	modes []fs.FileMode
	// secrets are the names in spec.secretObjects.
	secrets []string
	// last is the file's last line of the object, 0 for not yet known.
	last int
}

// parsed is what pkg/class makes of the documents that have classes.
type parsed struct {
	classes map[string][]*v1.SecretProviderClass // by file
	said    []said
}

// said is one thing that pkg/class says of a document.
type said struct {
	file    string
	line    int
	message string
	warning bool
	told    bool // as a finding about a class
}

func (s *said) code() string {
	if s.warning {
		return finding.CodeDoubtful
	}
	return finding.CodeRefused
}

// rest notes what was said of no class's lines.
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
		line, message := place(err)
		p.said = append(p.said, said{file: file, line: d.Before + line, message: message, warning: warning})
	}
	if err != nil {
		for _, one := range each(err) {
			note(one, false)
		}
	}
	for _, w := range warnings {
		// Objects of other kinds in a list are no mistake here.
		if !strings.Contains(w, "is no "+kindClass+" of") || strings.Contains(w, "this "+kindClass+" is") {
			note(errors.New(w), true)
		}
	}
}

// find takes out the parsed object of a class.
func (p *parsed) find(o *object) *v1.SecretProviderClass {
	list := p.classes[o.file]
	i := slices.IndexFunc(list, func(c *v1.SecretProviderClass) bool {
		return c.Name == o.Name && c.Namespace == o.text(o.node, "metadata", "namespace")
	})
	if i < 0 {
		return nil
	}
	found := list[i]
	p.classes[o.file] = slices.Delete(list, i, i+1)
	return found
}

// judge has the providers that can judge a class without their store.
type judge struct {
	vaults   map[string]*vault.Provider
	akeyless *akeyless.Provider
}

// newJudge takes a class without an address to use the operator's, where that
// is not known.
func newJudge(o *Operator) (*judge, error) {
	if o == nil {
		o = &Operator{Vault: vault.Config{DefaultAddress: operatorsAddress}}
	}
	j := &judge{vaults: map[string]*vault.Provider{}}
	var err error
	for _, name := range []string{vault.NameVault, vault.NameOpenBao} {
		config := o.Vault
		config.Name = name
		if j.vaults[name], err = vault.New(config); err != nil {
			return nil, err
		}
	}
	j.akeyless, err = akeyless.New(o.Akeyless)
	return j, err
}

// of finds the provider of a class; nil for a plugin's.
func (j *judge) of(name string) provider.Validator {
	if p, ok := j.vaults[name]; ok {
		return p
	}
	if name == akeyless.Name {
		return j.akeyless
	}
	return nil
}

// class says what the driver says of a class.
func (l *linter) class(c *linted) {
	for i := range l.parsed.said {
		if s := &l.parsed.said[i]; !s.told && s.file == c.file && c.holds(s.line) {
			s.told = true
			l.at(c.object, s.line, s.code(), finding.Finding{Message: s.message})
		}
	}
	spc := l.parsed.find(c.object)
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
		// What the provider says of its own parameters is wanted all the same.
		for _, key := range class.OwnKeys() {
			delete(spc.Spec.Parameters, key)
		}
		if parsed, _, err = class.Parse(spc); err != nil {
			return
		}
	}
	l.provider(c, parsed)
}

// holds tells whether a line of the file is one of the object's.
func (c *linted) holds(line int) bool {
	if c.last == 0 {
		c.last = c.before + lastLine(c.node, 0)
	}
	return line >= c.line(c.node)-1 && line <= c.last
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

func (l *linter) provider(c *linted, parsed *class.Class) {
	v := l.judge.of(parsed.Provider)
	if v == nil {
		message := fmt.Sprintf("spec.provider: %q is no provider of Mayfly's own, so its parameters are not looked at", parsed.Provider)
		f := finding.Finding{Message: message}
		if like := class.Near(parsed.Provider, []string{vault.NameVault, vault.NameOpenBao, akeyless.Name}); like != "" {
			f.Level, f.Remedy = finding.Warning, fmt.Sprintf("did you mean %q?", like)
		}
		l.at(c.object, c.locate("spec.provider", ""), finding.CodePlugin, f)
		c.class = parsed
		return
	}
	foreign := l.foreign(c, parsed)
	warnings, err := v.Validate(parsed)
	warnings = slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(foreign, fieldOf(w)) })
	if len(fieldErrors(err)) > 0 || err != nil && (fault.Of(err) != fault.InvalidClass || parsed.Strict) {
		l.refused(c, err)
		l.doubtful(c, slices.DeleteFunc(warnings, func(w string) bool { return strings.Contains(err.Error(), w) }))
		return
	}
	l.doubtful(c, warnings)
	c.class = parsed
	c.modes = modesOf(parsed)
	switch p := v.(type) {
	case *vault.Provider:
		l.vault(c, p)
	case *akeyless.Provider:
		l.akeyless(c, p)
	}
}

func (l *linter) vault(c *linted, p *vault.Provider) {
	judged, err := p.Judge(c.class)
	if err != nil {
		return // Validate has said it
	}
	c.login = Login{true, judged.Audience, judged.Address, judged.Namespace, judged.Mount, judged.Role, ""}
	if judged.Address == operatorsAddress {
		c.login.Address = ""
	}
	for i, path := range judged.WithData {
		where := fmt.Sprintf("%s[%d].secretPath", objectsField, i)
		l.at(c.object, c.locate(where, ""), finding.CodeWithoutData, finding.Finding{
			Message: where + " has no data/ after the mount, as paths of a KV version 2 engine have",
			Remedy:  fmt.Sprintf("if a KV engine of version 2 is mounted there, write %s", path),
		})
	}
}

func (l *linter) akeyless(c *linted, p *akeyless.Provider) {
	if judged, err := p.Judge(c.class); err == nil {
		c.login = Login{Built: true, Audience: judged.Audience, Address: judged.Address, AccessID: judged.AccessID}
	}
}

// fieldErrors are the bad fields that an error names.
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

// refused notes each field that an error names, or else the error.
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
		l.at(c.object, c.locate(where, text), finding.CodeRefused, finding.Finding{Message: c.reword(where, text), Remedy: hint})
	}
}

func (l *linter) doubtful(c *linted, warnings []string) {
	for _, w := range warnings {
		l.say(c, finding.CodeDoubtful, fieldOf(w), w)
	}
}

func (l *linter) say(c *linted, code, where, message string) {
	l.at(c.object, c.locate(where, message), code, finding.Finding{Message: c.reword(where, message)})
}

// fieldOf is the field that a message begins with; empty for none.
func fieldOf(message string) string {
	where, _, found := strings.Cut(message, ": ")
	if !found || !strings.HasPrefix(where, "spec.") && !strings.HasPrefix(where, "metadata.") {
		return ""
	}
	return where
}

var (
	innerLine   = regexp.MustCompile(`\bline (\d+)\b`)
	atInnerLine = regexp.MustCompile(` \(line \d+\)|line \d+: `)
	objectStep  = regexp.MustCompile(`^\[(\d+)\](?:\.(.+))?`)
	pathStep    = regexp.MustCompile(`\[(\d+)\]|\[([^\]]*)\]|[^.\[\]]+`)
)

// reword takes out the lines that count from the start of the objects: the
// finding has that of the file.
func (c *linted) reword(where, message string) string {
	if !strings.HasPrefix(where, objectsField) {
		return message
	}
	message = atInnerLine.ReplaceAllString(message, "")
	return innerLine.ReplaceAllString(message, fmt.Sprintf("line %d", c.locate(where, message)))
}

// locate is the file's line of a field, or of the nearest one around it that
// is there. The message may name a line of the objects' own YAML.
func (c *linted) locate(where, message string) int {
	n := c.node
	at := c.line(n)
	for _, step := range pathStep.FindAllStringSubmatch(where, -1) {
		if i, err := strconv.Atoi(step[1]); err == nil && n.Kind == yaml.SequenceNode {
			if i >= len(n.Content) {
				return at
			}
			n = class.Resolve(n.Content[i])
			at = c.line(n)
			continue
		}
		list := c.entries(n)
		i := slices.IndexFunc(list, func(e class.Entry) bool { return e.Key == step[0] || e.Key == step[2] })
		if i < 0 {
			break
		}
		n, at = class.Resolve(list[i].Value), c.line(list[i].Where)
	}
	if strings.HasPrefix(where, objectsField) && n.Kind == yaml.ScalarNode {
		return at + c.inner(n, where, message)
	}
	return at
}

// inner is how many lines below the key a line of the objects' YAML is. Only
// of a literal block it can be told.
func (c *linted) inner(n *yaml.Node, where, message string) int {
	if n.Style&yaml.LiteralStyle == 0 {
		return 0
	}
	if match := innerLine.FindStringSubmatch(message); match != nil {
		line, _ := strconv.Atoi(match[1])
		return min(line, strings.Count(n.Value, "\n")+1)
	}
	index := objectStep.FindStringSubmatch(strings.TrimPrefix(where, objectsField))
	if index == nil {
		return 0
	}
	nodes, _ := class.Document{Text: []byte(n.Value)}.Nodes()
	i, _ := strconv.Atoi(index[1])
	if len(nodes) != 1 || nodes[0].Kind != yaml.SequenceNode || i >= len(nodes[0].Content) {
		return 0
	}
	item := class.Resolve(nodes[0].Content[i])
	for _, e := range c.entries(item) {
		if e.Key == index[2] {
			return e.Where.Line
		}
	}
	return item.Line
}

// modesOf are the modes of a class's files, each once.
func modesOf(c *class.Class) []fs.FileMode {
	set := params.New(c.Parameters, params.Known{Keys: []string{keyObjects}, Long: []string{keyObjects}})
	var modes []fs.FileMode
	for _, o := range set.Objects(keyObjects) {
		mode := defaultMode
		for _, f := range o.Fields {
			if f.Name == fieldMode {
				if given := f.Mode(); given != 0 {
					mode = given
				}
			}
		}
		if !slices.Contains(modes, mode) {
			modes = append(modes, mode)
		}
	}
	return modes
}
