package tmpl

import (
	"reflect"
	"slices"
	"text/template/parse"
)

// conditions are Go's own functions that do not evaluate all of their arguments. The value says whether
// all of them must be true.
var conditions = map[string]bool{"and": true, "or": false}

// function calls a function; at is the command or the word that an error of the function is about.
func (x *execution) function(n *parse.IdentifierNode, at parse.Node, args []parse.Node, dot, last any) (any, error) {
	x.at = n
	if all, ok := conditions[n.Ident]; ok {
		return x.condition(n.Ident, !all, args, dot, last)
	}
	f := reflect.ValueOf(x.functions[n.Ident])
	if !f.IsValid() {
		return nil, x.cannot()
	}
	typ := f.Type()
	given := len(args)
	if last != (absent{}) {
		given++
	}
	switch fixed := typ.NumIn() - 1; {
	case typ.IsVariadic() && given < fixed:
		return nil, x.errorf("wrong number of args for %s: want at least %d got %d", n.Ident, fixed, len(args))
	case !typ.IsVariadic() && given != fixed+1:
		return nil, x.errorf("wrong number of args for %s: want %d got %d", n.Ident, fixed+1, given)
	}
	in := make([]reflect.Value, given)
	for i := range in {
		v := last
		if i < len(args) {
			var err error
			if v, err = x.operand(args[i], dot); err != nil {
				return nil, err
			}
		}
		want := typ.In(min(i, typ.NumIn()-1))
		if typ.IsVariadic() && i >= typ.NumIn()-1 {
			want = want.Elem()
		}
		var err error
		if in[i], err = x.argument(v, want, i < len(args) && constant(args[i])); err != nil {
			return nil, err
		}
	}
	v, err := call(f, in)
	if err != nil {
		x.at = at
		return nil, x.failed(err)
	}
	return v, nil
}

// condition is the first argument whose truth is until, or else the last one.
func (x *execution) condition(name string, until bool, args []parse.Node, dot, last any) (v any, err error) {
	if len(args) == 0 && last == (absent{}) {
		return nil, x.errorf("wrong number of args for %s: want at least 1 got 0", name)
	}
	for _, arg := range args {
		if v, err = x.operand(arg, dot); err != nil || truth(v) == until {
			return v, err
		}
	}
	if last != (absent{}) {
		v = last
	}
	return v, nil
}

// constant says whether a word is written out in the template: an error must not quote it, as it
// can be anything.
func constant(n parse.Node) bool {
	switch n.Type() {
	case parse.NodeBool, parse.NodeNil, parse.NodeNumber, parse.NodeString:
		return true
	}
	return false
}

// argument converts a value to the type of a parameter.
func (x *execution) argument(v any, want reflect.Type, constant bool) (reflect.Value, error) {
	switch given := reflect.ValueOf(v); {
	case !given.IsValid() && want.Kind() == reflect.Interface:
		return reflect.Zero(want), nil
	case !given.IsValid(), constant && !given.Type().AssignableTo(want):
		return reflect.Value{}, x.cannot()
	case !given.Type().AssignableTo(want):
		return reflect.Value{}, x.errorf("wrong type for value; expected %s; got %s", want, given.Type())
	default:
		return given, nil
	}
}

// errCannot is the error of a function that was not made for a value. Its own words might quote it.
var errCannot = &problem{what: cannotRun}

// call calls a function of one or two results.
func call(f reflect.Value, in []reflect.Value) (v any, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, errCannot
		}
	}()
	out := f.Call(in)
	if len(out) == 2 && !out[1].IsNil() {
		return nil, out[1].Interface().(error)
	}
	return out[0].Interface(), nil
}

// failed places the error of a function.
func (x *execution) failed(err error) error {
	e := explain(err)
	return x.placed(e.What, e.Err)
}

// builtins returns Go's own functions of lengths and truth.
func builtins() map[string]any {
	return map[string]any{
		"and": true, "or": true, // names for the parser: function knows them as conditions
		"not": func(v any) bool { return !truth(v) },
		"len": length, "slice": slice,
	}
}

func length(v any) (int, error) {
	switch v := reflect.ValueOf(v); v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map:
		return v.Len(), nil
	}
	return 0, errCannot
}

// slice returns a part of a text or a list, from a first to before a last position.
func slice(v any, positions ...any) (any, error) {
	from := reflect.ValueOf(v)
	var at []int
	switch from.Kind() {
	case reflect.String:
		at = []int{0, from.Len()}
	case reflect.Slice:
		at = []int{0, from.Len(), from.Cap()}
	}
	if len(positions) > len(at) || at == nil {
		return nil, errCannot
	}
	most := at[len(at)-1]
	for i, p := range positions {
		n := reflect.ValueOf(p)
		if !n.IsValid() || !n.CanInt() || n.Int() < 0 || n.Int() > int64(most) {
			return nil, errCannot
		}
		at[i] = int(n.Int())
	}
	if !slices.IsSorted(at) {
		return nil, errCannot
	}
	return from.Slice(at[0], at[1]).Interface(), nil
}
