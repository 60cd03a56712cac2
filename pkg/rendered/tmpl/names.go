package tmpl

import (
	"maps"
	"slices"
	"text/template/parse"
)

// Names are the names, in the template's text, of the values that it takes if it comes to them: as
// fields of its data, and by the function secret. Those that hasKey and get ask for are not among
// them. They are sorted.
func (t *Template) Names() []string {
	found := map[string]bool{}
	for name, body := range t.bodies {
		own := name == rootName
		search{dollar: own, found: found}.list(body.Root, own)
	}
	return slices.Sorted(maps.Keys(found))
}

// search looks for names in a body.
type search struct {
	dollar bool // says that $ is the template's data
	found  map[string]bool
}

// list searches nodes; dot says that the dot is the template's data.
func (s search) list(l *parse.ListNode, dot bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		s.pipe(pipeOf(n), dot)
		if b := branchOf(n); b != nil {
			s.list(b.List, dot && n.Type() == parse.NodeIf) // with and range change the dot
			s.list(b.ElseList, dot)
		}
	}
}

func (s search) pipe(p *parse.PipeNode, dot bool) {
	if p == nil {
		return
	}
	for _, cmd := range p.Cmds {
		for i, arg := range cmd.Args {
			switch arg := arg.(type) {
			case *parse.PipeNode:
				s.pipe(arg, dot)
			case *parse.ChainNode:
				inner, _ := arg.Node.(*parse.PipeNode)
				s.pipe(inner, dot)
			case *parse.FieldNode:
				s.add(dot, arg.Ident)
			case *parse.VariableNode:
				s.add(s.dollar && arg.Ident[0] == "$", arg.Ident[1:])
			case *parse.StringNode:
				function, is := cmd.Args[0].(*parse.IdentifierNode)
				s.add(i == 1 && is && function.Ident == "secret", []string{arg.Text})
			}
		}
	}
}

func (s search) add(is bool, names []string) {
	if is && len(names) > 0 {
		s.found[names[0]] = true
	}
}
