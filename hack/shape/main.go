// Command shape prints figures about the structure of the driver's code, so that developers see how
// they change. It enforces nothing.
package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/tools/go/packages"
)

const (
	module      = "github.com/mayfly-csi/mayfly/"
	maxFile     = 500
	maxFunction = 60
	maxMethods  = 20
)

// paired are the packages for which it counts pairs of files that use each other.
var paired = []string{"pkg/volume", "pkg/provider/vault", "pkg/provider/akeyless", "pkg/provider/session"}

// apart are separate programs, which are not part of the driver.
var apart = []string{"pkg/cli", "pkg/kms", "pkg/provider/providertest", "cmd/kubectl-mayfly", "cmd/mayfly-kms"}

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatalf("shape: %v", err)
	}
}

func run() error {
	list, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo,
		Env:  append(os.Environ(), "GOOS=linux"),
	}, "./cmd/...", "./pkg/...")
	if err != nil {
		return err
	}
	s := &shape{methods: map[string]int{}}
	for _, p := range list {
		if len(p.Errors) > 0 {
			return p.Errors[0]
		}
		name := strings.TrimPrefix(p.PkgPath, module)
		if slices.ContainsFunc(apart, func(a string) bool { return name == a || strings.HasPrefix(name, a+"/") }) {
			continue
		}
		s.add(name, p)
	}
	return s.print()
}

// size is a file, function or type with its number of lines.
type size struct {
	name  string
	lines int
}

type shape struct {
	lines, files    int
	long, functions []size
	functionLines   []int
	methods         map[string]int
	mutual          []string // one line a package
}

// product reports whether people wrote the code for the driver.
func product(file string) bool {
	base := filepath.Base(file)
	return !strings.HasSuffix(base, "_test.go") && !strings.HasPrefix(base, "zz_generated") && !strings.HasSuffix(base, ".pb.go")
}

func (s *shape) add(name string, p *packages.Package) {
	var files []*ast.File
	for _, f := range p.Syntax {
		at := p.Fset.Position(f.FileStart)
		if !product(at.Filename) {
			continue
		}
		files = append(files, f)
		lines := p.Fset.File(f.FileStart).LineCount()
		s.files++
		s.lines += lines
		if lines > maxFile {
			s.long = append(s.long, size{name + "/" + filepath.Base(at.Filename), lines})
		}
		s.addFunctions(name, p, f)
	}
	if slices.Contains(paired, name) {
		s.mutual = append(s.mutual, pairs(name, p, files))
	}
}

func (s *shape) addFunctions(name string, p *packages.Package, f *ast.File) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		called := name + "." + fn.Name.Name
		if fn.Recv != nil {
			receiver := name + "." + receiverOf(fn.Recv.List[0].Type)
			s.methods[receiver]++
			called = receiver + "." + fn.Name.Name
		}
		lines := p.Fset.Position(fn.End()).Line - p.Fset.Position(fn.Pos()).Line + 1
		s.functionLines = append(s.functionLines, lines)
		if lines > maxFunction {
			s.functions = append(s.functions, size{called, lines})
		}
	}
}

func receiverOf(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiverOf(t.X)
	case *ast.IndexExpr:
		return receiverOf(t.X)
	case *ast.IndexListExpr:
		return receiverOf(t.X)
	case *ast.Ident:
		return t.Name
	}
	return "?"
}

// pairs counts the pairs of a package's files that use each other: one names something that the
// other declares at its top, or a method or field of that.
func pairs(name string, p *packages.Package, files []*ast.File) string {
	uses := map[[2]*token.File]bool{}
	var all []*token.File
	for _, f := range files {
		from := p.Fset.File(f.FileStart)
		all = append(all, from)
		ast.Inspect(f, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			if o := p.TypesInfo.Uses[id]; o != nil && o.Pkg() == p.Types && declaredAtTop(o) {
				if to := p.Fset.File(o.Pos()); to != from {
					uses[[2]*token.File{from, to}] = true
				}
			}
			return true
		})
	}
	both, either := 0, 0
	for i, a := range all {
		for _, b := range all[i+1:] {
			there, back := uses[[2]*token.File{a, b}], uses[[2]*token.File{b, a}]
			if there || back {
				either++
			}
			if there && back {
				both++
			}
		}
	}
	n := len(all) * (len(all) - 1) / 2
	return fmt.Sprintf("%s\t%d files\t%d %% of the pairs\teach way: %d %%", name, len(all), percent(either, n), percent(both, n))
}

func percent(a, b int) int {
	if b == 0 {
		return 0
	}
	return (100*a + b/2) / b
}

// declaredAtTop reports whether the package declares the object, also as a method or field, and not
// a function's body.
func declaredAtTop(o types.Object) bool {
	switch o := o.(type) {
	case *types.Func:
		return true
	case *types.Var:
		return o.IsField() || o.Parent() == o.Pkg().Scope()
	}
	return o.Parent() == o.Pkg().Scope()
}

func (s *shape) print() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "lines of cmd and pkg\t%d\tin %d files\n", s.lines, s.files)
	fmt.Fprintf(w, "without tests, generated code, %s\n", strings.Join(apart, ", "))
	slices.Sort(s.functionLines)
	fmt.Fprintf(w, "functions\t%d\tmedian %d lines, p90 %d, longest %d\n", len(s.functionLines), s.functionLines[len(s.functionLines)/2], s.functionLines[len(s.functionLines)*9/10], s.functionLines[len(s.functionLines)-1])
	fmt.Fprintln(w, "\nfiles that use each other")
	for _, line := range s.mutual {
		fmt.Fprintln(w, "  "+line)
	}
	fmt.Fprintf(w, "\ntypes with more than %d methods\n", maxMethods)
	for _, name := range slices.SortedFunc(maps.Keys(s.methods), func(a, b string) int { return cmp.Or(s.methods[b]-s.methods[a], cmp.Compare(a, b)) }) {
		if s.methods[name] > maxMethods {
			fmt.Fprintf(w, "  %s\t%d\n", name, s.methods[name])
		}
	}
	show(w, fmt.Sprintf("files of more than %d lines", maxFile), s.long)
	show(w, fmt.Sprintf("functions of more than %d lines", maxFunction), s.functions)
	return w.Flush()
}

func show(w *tabwriter.Writer, title string, list []size) {
	fmt.Fprintln(w, "\n"+title)
	slices.SortFunc(list, func(a, b size) int { return cmp.Or(b.lines-a.lines, cmp.Compare(a.name, b.name)) })
	for _, x := range list {
		fmt.Fprintf(w, "  %s\t%d\n", x.name, x.lines)
	}
}
