// Package tmpl renders Go text templates that a tenant wrote over values that
// are secret. Whatever a template does, it takes no more time, memory and
// output than its limits allow, and none of its errors quotes a value.
//
// text/template cannot be cancelled. So the parsed template is changed before
// it runs: each body of a template and of a range begins with an action that
// counts the steps of the body, and every function counts the bytes that it
// reads and makes.
package tmpl

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// MaxText is the most bytes of one template's text.
const MaxText = 64 << 10

// What a text of that size may hold: the parser makes some hundred bytes of an
// action, and calls itself for each parenthesis.
const (
	maxActions = 2000
	maxNested  = 100
)

// Limits are what one rendering may take.
type Limits struct {
	// Steps bound the time: one is about a tenth of a microsecond.
	Steps int64
	// Bytes are all that functions make on the way, whether it is still needed
	// or not.
	Bytes int64
	// Output is the most bytes of the result.
	Output int64
	// Reserve is called with the bytes that are held so far, in growing steps,
	// and refuses the rendering by its error. It may be nil.
	Reserve func(bytes int64) error
}

// DefaultLimits end the worst template within about a tenth of a second and
// 8 MiB.
func DefaultLimits() Limits {
	return Limits{Steps: 1 << 20, Bytes: 8 << 20, Output: 4 << 20}
}

// Error says what is wrong with a template, without a value.
type Error struct {
	Line, Column int // 0 where the parser does not say
	What         string
	// Err is the cause of a rendering that was refused for its size; else nil.
	Err error
}

func (e *Error) Error() string {
	switch {
	case e.Line == 0:
		return e.What
	case e.Column == 0:
		return fmt.Sprintf("line %d of the text: %s", e.Line, e.What)
	}
	return fmt.Sprintf("line %d, column %d of the text: %s", e.Line, e.Column, e.What)
}

// Unwrap gives errors.As the cause.
func (e *Error) Unwrap() error { return e.Err }

// Template is a text that was found to be a template. Functions of text/template are fixed when it
// is parsed, and they count; so a rendering waits for the one before.
type Template struct {
	mu     sync.Mutex
	meter  *meter
	parsed *template.Template
}

// Compile reads a text as a template, or tells what is wrong with it.
func Compile(text string) (*Template, *Error) {
	t := &Template{meter: &meter{limits: DefaultLimits()}}
	var bad *Error
	if t.parsed, bad = compile(text, t.meter); bad != nil {
		return nil, bad
	}
	return t, nil
}

// Render renders the template over values by their names, and takes what it needs off the limits'
// steps and bytes. Its error is an *Error.
func (t *Template) Render(values map[string]string, l *Limits) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.meter
	*m = meter{limits: *l, values: make(map[string]any, len(values))}
	defer func() {
		l.Steps, l.Bytes = l.Steps-m.steps, l.Bytes-m.bytes
		*m = meter{} // keeps no values
	}()
	for name, value := range values {
		m.values[name] = value
	}
	out := &output{meter: m, left: l.Output}
	if err := t.parsed.Execute(out, m.values); err != nil {
		return nil, explain(err, values)
	}
	return out.text, nil
}

// output is the result as far as it is written.
type output struct {
	meter *meter
	left  int64
	text  []byte
}

func (o *output) Write(p []byte) (int, error) {
	if o.left -= int64(len(p)); o.left < 0 {
		return 0, &spent{what: "the result is larger than the volume may be, or than a template may make"}
	}
	if err := o.meter.spend(1+len(p)/bytesPerStep, len(p)); err != nil {
		return 0, err
	}
	o.text = append(o.text, p...)
	return len(p), nil
}

// rootName is that of the text itself; positions in errors begin with it.
const rootName = "text"

func compile(text string, m *meter) (*template.Template, *Error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	functions := m.functions()
	maps.DeleteFunc(functions, func(name string, _ any) bool { // the parser copies all, which takes longer than to parse
		return name != functionCount && !strings.Contains(text, name)
	})
	t, err := template.New(rootName).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return nil, explain(err, nil)
	}
	if t.Tree == nil || parse.IsEmptyTree(t.Root) {
		return nil, &Error{What: "has nothing to write outside of its definitions"}
	}
	bodies := t.Templates()
	if err := checkCalls(bodies); err != nil {
		return nil, err
	}
	for _, body := range bodies {
		if body.Tree != nil {
			prepend(body.Root, stepsOf(body.Root))
		}
	}
	return t, nil
}

// checkText refuses what would take the parser long.
func checkText(text string) *Error {
	switch {
	case strings.TrimSpace(text) == "":
		return &Error{What: "is empty"}
	case len(text) > MaxText:
		return &Error{What: fmt.Sprintf("is %d bytes long, more than %d", len(text), MaxText)}
	}
	actions := strings.Split(text, "{{")
	if len(actions)-1 > maxActions {
		return &Error{What: fmt.Sprintf("has %d actions, more than %d", len(actions)-1, maxActions)}
	}
	line := 1
	for i, action := range actions {
		inner, _, _ := strings.Cut(action, "}}")
		if i > 0 && strings.Count(inner, "(") > maxNested {
			return &Error{Line: line, What: fmt.Sprintf("the action has more than %d parentheses", maxNested)}
		}
		line += strings.Count(action, "\n")
	}
	return nil
}

// checkCalls refuses templates that call themselves, by whatever way: nothing
// else could make the stack deep.
func checkCalls(bodies []*template.Template) *Error {
	const known, open, done = 1, 2, 3
	state, calls := map[string]int{}, map[string][]*parse.TemplateNode{}
	for _, body := range bodies {
		state[body.Name()] = known
		if body.Tree != nil {
			calls[body.Name()] = callsIn(body.Root)
		}
	}
	var visit func(name string) *Error
	visit = func(name string) *Error {
		if state[name] == done {
			return nil
		}
		state[name] = open
		for _, call := range calls[name] {
			switch state[call.Name] {
			case 0:
				return &Error{Line: call.Line, What: fmt.Sprintf("there is no template %q", params.Clip(call.Name))}
			case open:
				return &Error{Line: call.Line, What: fmt.Sprintf("the template %q calls itself", params.Clip(call.Name))}
			}
			if err := visit(call.Name); err != nil {
				return err
			}
		}
		state[name] = done
		return nil
	}
	for _, body := range bodies {
		if err := visit(body.Name()); err != nil {
			return err
		}
	}
	return nil
}

// callsIn returns the calls of templates in a body, those within its branches included.
func callsIn(l *parse.ListNode) (calls []*parse.TemplateNode) {
	if l == nil {
		return nil
	}
	for _, n := range l.Nodes {
		if call, ok := n.(*parse.TemplateNode); ok {
			calls = append(calls, call)
		}
		if b := branchOf(n); b != nil {
			calls = slices.Concat(calls, callsIn(b.List), callsIn(b.ElseList))
		}
	}
	return calls
}

// branchOf returns the bodies of an if, with or range; nil for other nodes.
func branchOf(n parse.Node) *parse.BranchNode {
	switch n := n.(type) {
	case *parse.IfNode:
		return &n.BranchNode
	case *parse.WithNode:
		return &n.BranchNode
	case *parse.RangeNode:
		return &n.BranchNode
	}
	return nil
}

// pipeOf returns the pipeline of a node; nil for none.
func pipeOf(n parse.Node) *parse.PipeNode {
	switch n := n.(type) {
	case *parse.ActionNode:
		return n.Pipe
	case *parse.TemplateNode:
		return n.Pipe
	}
	if b := branchOf(n); b != nil {
		return b.Pipe
	}
	return nil
}

// stepsPerNode is what a node takes besides the calls of functions in it.
const stepsPerNode = 10

// stepsOf is what one run of a body takes, without the bodies of its ranges:
// those get a counting action of their own.
func stepsOf(list *parse.ListNode) int {
	if list == nil {
		return 0
	}
	steps := stepsPerNode
	for _, n := range list.Nodes {
		steps += stepsPerNode + calls(pipeOf(n))
		b := branchOf(n)
		switch {
		case b == nil:
		case n.Type() == parse.NodeRange:
			prepend(b.List, stepsOf(b.List))
			steps += stepsOf(b.ElseList)
		default:
			steps += stepsOf(b.List) + stepsOf(b.ElseList)
		}
	}
	return steps
}

// calls bounds how many calls a pipeline makes by the length of its text.
func calls(p *parse.PipeNode) int {
	if p == nil {
		return 0
	}
	return len(p.String()) / 2
}

// prepend puts the action {{functionCount steps}} before a body. It has the
// body's position, which an error that it gives is reported at.
func prepend(list *parse.ListNode, steps int) {
	pos := list.Position()
	if len(list.Nodes) > 0 {
		pos = list.Nodes[0].Position()
	}
	name := parse.NewIdentifier(functionCount).SetPos(pos)
	number := &parse.NumberNode{NodeType: parse.NodeNumber, Pos: pos, IsInt: true, Int64: int64(steps), Text: fmt.Sprint(steps)}
	action := &parse.ActionNode{NodeType: parse.NodeAction, Pos: pos, Pipe: &parse.PipeNode{
		NodeType: parse.NodePipe, Pos: pos,
		Cmds: []*parse.CommandNode{{NodeType: parse.NodeCommand, Pos: pos, Args: []parse.Node{name, number}}},
	}}
	list.Nodes = append([]parse.Node{action}, list.Nodes...)
}

var (
	place   = regexp.MustCompile(`^template: ` + rootName + `:(\d+)(?::(\d+))?: (?s:(.*))$`)
	running = regexp.MustCompile(`(?s)^executing ".*?" at <.*?>: (.*)$`)
	missing = regexp.MustCompile(`^map has no entry for key "(.*)"$`)
)

// explain makes an *Error of what text/template says. What it says of a
// template as such is passed on. Of a rendering only what is known to hold no
// value is: some of its errors quote one.
func explain(err error, values map[string]string) *Error {
	e := &Error{}
	said := err.Error()
	if m := place.FindStringSubmatch(said); m != nil {
		_, _ = fmt.Sscan(m[1], &e.Line)
		_, _ = fmt.Sscan(m[2], &e.Column)
		said = m[3]
	}
	var exec template.ExecError
	var ours *problem
	var over *spent
	switch {
	case errors.As(err, &over):
		e.What, e.Err = over.what, over.err
	case errors.As(err, &ours):
		e.What = ours.Error()
	case !errors.As(err, &exec):
		e.What = said
	default:
		if m := running.FindStringSubmatch(said); m != nil {
			said = m[1]
		}
		e.What = known(said, values)
	}
	return e
}

// known passes on what holds types and names alone.
func known(said string, values map[string]string) string {
	if m := missing.FindStringSubmatch(said); m != nil {
		return fmt.Sprintf("there is no %q%s", params.Clip(m[1]), class.DidYouMean(m[1], names(values)))
	}
	for _, start := range []string{"can't evaluate field ", "wrong type for value; expected ", "wrong number of args for ", "template: no template ", "nil is not a command", "nil data"} {
		if strings.HasPrefix(said, start) {
			return params.Clip(said)
		}
	}
	if strings.HasPrefix(said, "range can't iterate over ") {
		return "range needs a list, a map or a whole number"
	}
	return "the action cannot be run with the values that it is given"
}
