package tmpl

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// What the parts of a template take besides the calls of functions.
const (
	stepsPerNode = 10
	stepsPerWord = 5
)

// cannotRun is the error of an action whose own words might quote a value.
const cannotRun = "the action cannot be run with the values that it is given"

// absent stands for the last argument of a command that is the first of its pipeline.
type absent struct{}

// execution is one run of a body, as text/template's documentation describes it. Values are what
// the functions return: nil, texts, numbers, booleans, []any and map[string]any.
type execution struct {
	*Template
	out  *output
	tree *parse.Tree
	vars variables
	at   parse.Node // for errors
}

type variable struct {
	name  string
	value any
}

type variables []variable

// find returns the variable of a name that was declared last; nil for none.
func (v variables) find(name string) *variable {
	for i := range slices.Backward(v) {
		if v[i].name == name {
			return &v[i]
		}
	}
	return nil
}

// flow says what follows a node.
type flow int

const (
	next  flow = iota
	skip       // to the next round of the range
	leave      // the range
)

// execute runs a body with a dot. Bodies do not call themselves: checkCalls has seen to it.
func (t *Template) execute(body string, dot any, out *output) error {
	tree := t.bodies[body]
	x := &execution{Template: t, out: out, tree: tree, vars: variables{{"$", dot}}, at: tree.Root}
	_, err := x.list(tree.Root, dot)
	return err
}

// errorf makes an error of what holds types and names alone.
func (x *execution) errorf(format string, args ...any) error {
	return x.placed(params.Clip(fmt.Sprintf(format, args...)), nil)
}

func (x *execution) cannot() error { return x.placed(cannotRun, nil) }

func (x *execution) placed(what string, cause error) error {
	e := &Error{What: what, Err: cause}
	place, _ := x.tree.ErrorContext(x.at)
	_, _ = fmt.Sscanf(strings.TrimPrefix(place, rootName+":"), "%d:%d", &e.Line, &e.Column)
	return e
}

// list runs the nodes of a body or of a branch.
func (x *execution) list(list *parse.ListNode, dot any) (flow, error) {
	if list == nil {
		return next, nil
	}
	for _, n := range list.Nodes {
		x.at = n
		if err := x.spend(stepsPerNode); err != nil {
			return next, err
		}
		if f, err := x.node(n, dot); err != nil || f != next {
			return f, err
		}
	}
	return next, nil
}

func (x *execution) spend(steps int) error {
	if err := x.meter.spend(steps, 0); err != nil {
		return x.failed(err)
	}
	return nil
}

func (x *execution) node(n parse.Node, dot any) (flow, error) {
	switch n := n.(type) {
	case *parse.TextNode:
		return next, x.write(string(n.Text))
	case *parse.ActionNode:
		v, err := x.pipeline(n.Pipe, dot)
		if err != nil || len(n.Pipe.Decl) > 0 {
			return next, err
		}
		x.at = n
		return next, x.write(printed(v))
	case *parse.IfNode, *parse.WithNode:
		return x.branch(n, branchOf(n), dot)
	case *parse.RangeNode:
		return x.iterate(n, dot)
	case *parse.TemplateNode:
		inner, err := x.pipeline(n.Pipe, dot)
		if err != nil {
			return next, err
		}
		return next, x.execute(n.Name, inner, x.out)
	case *parse.BreakNode:
		return leave, nil
	case *parse.ContinueNode:
		return skip, nil
	case *parse.CommentNode:
		return next, nil
	}
	return next, x.cannot()
}

// write writes to the output. An error about its size is one of the whole text, and has no place.
func (x *execution) write(s string) error {
	if _, err := x.out.Write([]byte(s)); err != nil {
		return explain(err)
	}
	return nil
}

func printed(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case nil:
		return "<no value>"
	}
	return fmt.Sprint(v)
}

func (x *execution) branch(n parse.Node, b *parse.BranchNode, dot any) (flow, error) {
	defer x.pop(len(x.vars))
	v, err := x.pipeline(b.Pipe, dot)
	switch {
	case err != nil:
		return next, err
	case !truth(v):
		return x.list(b.ElseList, dot)
	case n.Type() == parse.NodeWith:
		return x.list(b.List, v)
	}
	return x.list(b.List, dot)
}

// pop forgets the variables that were declared since there were n.
func (x *execution) pop(n int) { x.vars = x.vars[:n] }

// truth says whether a value counts as true in a condition.
func truth(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case json.Number:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	return !reflect.ValueOf(v).IsZero() // of numbers
}

// iterate runs a range.
func (x *execution) iterate(n *parse.RangeNode, dot any) (flow, error) {
	defer x.pop(len(x.vars))
	v, err := x.pipeline(n.Pipe, dot)
	if err != nil {
		return next, err
	}
	elements, count := elementsOf(v)
	if elements == nil {
		return next, x.errorf("range needs a list, a map or a whole number")
	}
	if count && len(n.Pipe.Decl) > 1 {
		return next, x.cannot()
	}
	none, declared := true, len(x.vars)
	for key, element := range elements {
		none = false
		if err := x.setRange(n.Pipe, key, element); err != nil {
			return next, err
		}
		if err := x.spend(stepsPerNode); err != nil {
			return next, err
		}
		f, err := x.list(n.List, element)
		if err != nil {
			return next, err
		}
		x.pop(declared)
		if f == leave {
			break
		}
	}
	if !none {
		return next, nil
	}
	f, err := x.list(n.ElseList, dot)
	if f == leave {
		f = next
	}
	return f, err
}

// elementsOf returns what a range goes over, nil if it cannot; a whole number counts, and has no keys.
func elementsOf(v any) (elements iter.Seq2[any, any], count bool) {
	switch v := v.(type) {
	case nil:
		return func(func(any, any) bool) {}, false
	case []any:
		return func(yield func(any, any) bool) {
			for i, element := range v {
				if !yield(i, element) {
					return
				}
			}
		}, false
	case map[string]any:
		return func(yield func(any, any) bool) {
			for _, key := range names(v) {
				if !yield(key, v[key]) {
					return
				}
			}
		}, false
	case int:
		return upTo(v), true
	case int64:
		return upTo(v), true
	}
	return nil, false
}

func upTo[N int | int64](n N) iter.Seq2[any, any] {
	return func(yield func(any, any) bool) {
		for i := N(0); i < n; i++ {
			if !yield(nil, i) {
				return
			}
		}
	}
}

// setRange sets the variables of a range, which its pipeline has declared: of two, the first is the
// key.
func (x *execution) setRange(p *parse.PipeNode, key, element any) error {
	values := []any{element}
	if len(p.Decl) > 1 {
		values = []any{key, element}
	}
	for i, decl := range p.Decl {
		if err := x.set(decl.Ident[0], values[i]); err != nil {
			return err
		}
	}
	return nil
}

// set assigns to the variable that was declared last. The parser lets assignments to unknown
// variables pass.
func (x *execution) set(name string, v any) error {
	known := x.vars.find(name)
	if known == nil {
		return x.errorf("undefined variable: %s", name)
	}
	known.value = v
	return nil
}

// pipeline runs the commands of a pipeline, each with the value of the one before as its last
// argument.
func (x *execution) pipeline(p *parse.PipeNode, dot any) (any, error) {
	if p == nil {
		return nil, nil
	}
	var v any = absent{}
	var err error
	for _, c := range p.Cmds {
		x.at = p
		if err := x.spend(stepsPerWord * len(c.Args)); err != nil {
			return nil, err
		}
		if v, err = x.command(c, dot, v); err != nil {
			return nil, err
		}
	}
	for _, decl := range p.Decl {
		if !p.IsAssign {
			x.vars = append(x.vars, variable{decl.Ident[0], v})
		} else if err := x.set(decl.Ident[0], v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (x *execution) command(c *parse.CommandNode, dot, last any) (any, error) {
	first := c.Args[0]
	if n, ok := first.(*parse.IdentifierNode); ok {
		return x.function(n, c, c.Args[1:], dot, last)
	}
	x.at = first
	if first.Type() == parse.NodeNil {
		return nil, x.errorf("nil is not a command")
	}
	v, err := x.operand(first, dot)
	if err == nil && (len(c.Args) > 1 || last != absent{}) {
		return nil, x.cannot() // what is no function takes no arguments
	}
	return v, err
}

// operand is the value of a word that is no function of a command.
func (x *execution) operand(n parse.Node, dot any) (any, error) {
	x.at = n
	switch n := n.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.NilNode:
		return nil, nil
	case *parse.BoolNode:
		return n.True, nil
	case *parse.StringNode:
		return n.Text, nil
	case *parse.NumberNode:
		if v := literal(n); v != nil {
			return v, nil
		}
	case *parse.FieldNode:
		return x.fields(n, dot, n.Ident)
	case *parse.VariableNode:
		if known := x.vars.find(n.Ident[0]); known != nil {
			return x.fields(n, known.value, n.Ident[1:])
		}
	case *parse.PipeNode:
		return x.pipeline(n, dot)
	case *parse.IdentifierNode:
		return x.function(n, n, nil, dot, absent{})
	case *parse.ChainNode:
		v, err := x.operand(n.Node, dot)
		if err != nil {
			return nil, err
		}
		return x.fields(n, v, n.Field)
	}
	return nil, x.cannot()
}

// literal is a number of the type that its form asks for, nil if there is none.
func literal(n *parse.NumberNode) any {
	hexadecimal := strings.HasPrefix(strings.ToLower(n.Text), "0x") && !strings.ContainsAny(n.Text, "pP")
	switch {
	case n.IsComplex:
		return n.Complex128
	case n.IsFloat && !hexadecimal && n.Text[0] != '\'' && strings.ContainsAny(n.Text, ".eEpP"):
		return n.Float64
	case n.IsInt && int64(int(n.Int64)) == n.Int64:
		return int(n.Int64)
	}
	return nil
}

// fields follows names through maps.
func (x *execution) fields(at parse.Node, v any, path []string) (any, error) {
	for _, name := range path {
		x.at = at
		m, ok := v.(map[string]any)
		switch {
		case v == nil:
			return nil, x.errorf("nil data; no entry for key %q", name)
		case !ok:
			return nil, x.errorf("can't evaluate field %s in type %T", name, v)
		}
		if v, ok = m[name]; !ok {
			return nil, x.placed(noSuch(name, x.meter.values), nil)
		}
	}
	return v, nil
}

func noSuch(name string, values map[string]any) string {
	return fmt.Sprintf("there is no %q%s", params.Clip(name), class.DidYouMean(name, names(values)))
}
