// Package tmpl renders Go text templates that a tenant wrote over values that
// are secret. Whatever a template does, it takes no more time, memory and
// output than its limits allow, and none of its errors quotes a value.
//
// It parses with text/template/parse and runs the result itself, for two
// reasons. text/template cannot be cancelled; here every node counts its steps,
// and every function the bytes that it reads and makes. And text/template looks
// up methods by name, for which the linker keeps every exported method of the
// whole program: that made mayfly-node 4 MB larger. Values here have no methods.
package tmpl

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/template/parse"

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

// Template is a text that was found to be a template. Its functions count with its one meter, so a
// rendering waits for the one before.
type Template struct {
	mu        sync.Mutex
	meter     *meter
	bodies    map[string]*parse.Tree // by the template's name, rootName for the text itself
	functions map[string]any
}

// Compile reads a text as a template, or tells what is wrong with it.
func Compile(text string) (*Template, *Error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	m := &meter{limits: DefaultLimits()}
	t := &Template{meter: m, functions: m.functions()}
	var err error
	if t.bodies, err = parse.Parse(rootName, text, "", "", t.functions); err != nil {
		return nil, explain(err)
	}
	if parse.IsEmptyTree(t.bodies[rootName].Root) {
		return nil, &Error{What: "has nothing to write outside of its definitions"}
	}
	if err := checkCalls(t.bodies); err != nil {
		return nil, err
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
	if err := t.execute(rootName, m.values, out); err != nil {
		return nil, err
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
func checkCalls(bodies map[string]*parse.Tree) *Error {
	const known, open, done = 1, 2, 3
	state, calls := map[string]int{}, map[string][]*parse.TemplateNode{}
	for name, body := range bodies {
		state[name], calls[name] = known, callsIn(body.Root)
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
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		if err := visit(name); err != nil {
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

var place = regexp.MustCompile(`^template: ` + rootName + `:(\d+)(?::(\d+))?: (?s:(.*))$`)

// explain makes an *Error of what the parser or a function says.
func explain(err error) *Error {
	e := &Error{What: err.Error()}
	if over := (*spent)(nil); errors.As(err, &over) {
		e.Err = over.err
	} else if m := place.FindStringSubmatch(e.What); m != nil {
		_, _ = fmt.Sscan(m[1], &e.Line)
		_, _ = fmt.Sscan(m[2], &e.Column)
		e.What = m[3]
	}
	return e
}
