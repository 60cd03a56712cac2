package rules

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

var updateKeys = flag.Bool("keys", false, "write constants of pkg/logkey for literal keys of log lines")

// logPage lists the lines of level info and above.
const logPage = "docs/logs.md"

// otherPrograms are packages whose lines are not the driver's and mayfly-kms':
// the command line tool's, the tests', and what logs nothing itself.
var otherPrograms = []string{"pkg/cli", "pkg/provider/providertest"}

// anyMessage are the files whose functions log a message that they receive, with the
// lines that they write.
var anyMessage = map[string]string{
	"pkg/fault/panic.go":           "a panic of any work: in the page as panic",
	"pkg/csi/interceptor.go":       "calls of kubelet: in the page by their own words",
	"pkg/trace/export/export.go":   "what OpenTelemetry says",
	"pkg/trace/export/settings.go": "settings that cannot be used: as they say",
}

// logLine is a call that writes a log line, or adds keys to a logger.
type logLine struct {
	pos     token.Position
	level   string // empty where it is chosen at run time
	message string // empty for With
	literal bool   // the message is a literal
	keys    []*ast.BasicLit
}

// loggers are the names of what logs.
var loggers = regexp.MustCompile(`(?i)^(log|logger|slog)$`)

// methods are those of a logger, with how many arguments come before the message.
var methods = map[string]int{"Debug": 0, "Info": 0, "Warn": 0, "Error": 0, "DebugContext": 1, "InfoContext": 1, "WarnContext": 1, "ErrorContext": 1, "Log": 2, "LogAttrs": 2, "With": -1}

// attributes are the functions of slog that make one.
var attributes = []string{"String", "Int", "Int64", "Uint64", "Float64", "Bool", "Time", "Duration", "Any", "Group"}

// lineOf tells whether a call logs.
func lineOf(set *token.FileSet, call *ast.CallExpr) (l logLine, ok bool) {
	l.pos = set.Position(call.Pos())
	at := 0
	switch f := call.Fun.(type) {
	case *ast.Ident: // a method that was chosen before
		if f.Name != "log" {
			return l, false
		}
	case *ast.SelectorExpr:
		name := f.Sel.Name
		if id, is := f.X.(*ast.Ident); is && id.Name == "slog" && slices.Contains(attributes, name) && len(call.Args) > 0 {
			l.literal = true
			l.keys = literals(call.Args[:1], 1)
			return l, true
		}
		if id, is := f.X.(*ast.Ident); is && id.Name == "fault" && name == "Recover" {
			l.literal = true
			l.keys = literals(call.Args[min(3, len(call.Args)):], 2)
			return l, true
		}
		before, known := methods[name]
		if !known || !isLogger(f.X) {
			return l, false
		}
		if at = before; at < 0 {
			l.literal = true
			l.keys = literals(call.Args, 2)
			return l, true
		}
		if level := strings.TrimSuffix(name, "Context"); before < 2 {
			l.level = strings.ToLower(level)
		}
	default:
		return l, false
	}
	if len(call.Args) <= at {
		return l, false
	}
	if text, is := call.Args[at].(*ast.BasicLit); is && text.Kind == token.STRING {
		l.literal = true
		l.message, _ = strconv.Unquote(text.Value)
	}
	l.keys = literals(call.Args[at+1:], 2)
	return l, true
}

// isLogger tells whether an expression is a logger, by its name: log, c.Logger,
// log.With(...).
func isLogger(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return loggers.MatchString(x.Name)
	case *ast.SelectorExpr:
		return loggers.MatchString(x.Sel.Name)
	case *ast.CallExpr:
		f, ok := x.Fun.(*ast.SelectorExpr)
		return ok && f.Sel.Name == "With" && isLogger(f.X)
	}
	return false
}

// literals are those of every step-th argument.
func literals(args []ast.Expr, step int) (all []*ast.BasicLit) {
	for i := 0; i < len(args); i += step {
		if one, ok := args[i].(*ast.BasicLit); ok && one.Kind == token.STRING {
			all = append(all, one)
		}
	}
	return all
}

// logLines are those of the driver and mayfly-kms, by their files.
func logLines(t *testing.T) map[string][]logLine {
	t.Helper()
	all := map[string][]logLine{}
	for _, dir := range []string{"cmd/mayfly-node", "cmd/mayfly-kms", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil || slices.ContainsFunc(otherPrograms, func(p string) bool { return strings.HasPrefix(name, p) }) {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if call, is := n.(*ast.CallExpr); is {
					if l, ok := lineOf(set, call); ok {
						all[name] = append(all[name], l)
					}
				}
				return true
			})
			return nil
		})
		testkit.Must(t, err)
	}
	return all
}

// constant is the name that a key has in pkg/logkey.
func constant(key string) string {
	name, upper := "", true
	for _, r := range key {
		switch {
		case r == '_':
			upper = true
		case upper:
			name, upper = name+string(unicode.ToUpper(r)), false
		default:
			name += string(r)
		}
	}
	for _, short := range []string{"Id", "Pid", "Uid", "Gid", "Jti", "Ttl"} {
		if name == short || strings.HasSuffix(name, "Id") && short == "Id" {
			name = strings.TrimSuffix(name, short) + strings.ToUpper(short)
		}
	}
	return name
}

// TestLogKeysAreConstants: one word for one thing in every line.
func TestLogKeysAreConstants(t *testing.T) {
	known := logKeys(t)
	for name, lines := range logLines(t) {
		var literal []*ast.BasicLit
		for _, l := range lines {
			literal = append(literal, l.keys...)
		}
		if *updateKeys && len(literal) > 0 {
			useConstants(t, name, literal)
			continue
		}
		for _, l := range lines {
			for _, key := range l.keys {
				t.Errorf("%s:%d: the key %s of a log line is a literal: use pkg/logkey (go test ./test/rules -run LogKeys -keys writes logkey.%s)", name, l.pos.Line, key.Value, constant(strings.Trim(key.Value, `"`)))
			}
		}
	}
	if len(known) < 30 {
		t.Errorf("pkg/logkey has %d keys", len(known))
	}
	for name, key := range known {
		if constant(key) != name {
			t.Errorf("logkey.%s is %q, and should be called %s", name, key, constant(key))
		}
	}
}

func logKeys(t *testing.T) map[string]string {
	t.Helper()
	file := testkit.Value(parser.ParseFile(token.NewFileSet(), filepath.Join(root, "pkg/logkey/logkey.go"), nil, 0))(t)
	all := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if v, is := n.(*ast.ValueSpec); is && len(v.Values) == 1 {
			all[v.Names[0].Name], _ = strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		}
		return true
	})
	return all
}

// useConstants writes constants into a file, and has it import them.
func useConstants(t *testing.T, name string, keys []*ast.BasicLit) {
	t.Helper()
	path := filepath.Join(root, name)
	set := token.NewFileSet()
	text := testkit.Value(os.ReadFile(path))(t)
	file := testkit.Value(parser.ParseFile(set, path, text, 0))(t)
	slices.SortFunc(keys, func(a, b *ast.BasicLit) int { return int(b.Pos() - a.Pos()) })
	keys = slices.CompactFunc(keys, func(a, b *ast.BasicLit) bool { return a.Pos() == b.Pos() })
	for _, key := range keys {
		at := int(key.Pos()) - set.File(file.Pos()).Base()
		word, _ := strconv.Unquote(key.Value)
		text = slices.Concat(text[:at], []byte("logkey."+constant(word)), text[at+len(key.Value):])
	}
	const own = `"github.com/mayfly-csi/mayfly/pkg/logkey"`
	if !bytes.Contains(text, []byte(own)) {
		mine := []byte("\t\"github.com/mayfly-csi/mayfly/")
		if at := bytes.Index(text, mine); at >= 0 {
			text = slices.Concat(text[:at], []byte("\t"+own+"\n"), text[at:])
		} else {
			text = bytes.Replace(text, []byte("\n)\n"), []byte("\n\n\t"+own+"\n)\n"), 1)
		}
	}
	text = testkit.Value(format.Source(text))(t)
	testkit.Must(t, os.WriteFile(path, text, 0o644))
	t.Logf("%s: %d keys", name, len(keys))
}

// TestLogPage: the page has every line of level info and above, and no other.
func TestLogPage(t *testing.T) {
	text := testkit.Value(os.ReadFile(filepath.Join(root, logPage)))(t)
	listed := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([a-z, ]*) \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = m[2]
	}
	found := map[string][]string{}
	for name, lines := range logLines(t) {
		for _, l := range lines {
			if !l.literal && anyMessage[name] == "" {
				t.Errorf("%s:%d: the message of a log line is not a literal", name, l.pos.Line)
			}
			if l.message == "" || l.level == "debug" {
				continue
			}
			if !slices.Contains(found[l.message], l.level) {
				found[l.message] = append(found[l.message], l.level)
			}
			levels, ok := listed[l.message]
			switch {
			case !ok:
				t.Errorf("%s does not list the line of %s:%d: | `%s` | %s | |", logPage, name, l.pos.Line, l.message, l.level)
			case l.level != "" && !strings.Contains(levels, l.level):
				t.Errorf("%s has level %s for the line %q of %s:%d, which has level %s", logPage, levels, l.message, name, l.pos.Line, l.level)
			}
		}
	}
	for message := range listed {
		if found[message] == nil && !slices.ContainsFunc(spoken, func(s string) bool { return s == message }) {
			t.Errorf("%s lists %q, which no program logs", logPage, message)
		}
	}
	if len(listed) < 60 {
		t.Error(fmt.Errorf("%s lists %d lines", logPage, len(listed)))
	}
}

// spoken are the messages of the functions that log a message that they receive.
var spoken = []string{"a setting of OpenTelemetry cannot be used and is ignored", "panic", "call", "call failed", "mount failed, kubelet tries again", "unmount failed, kubelet tries again"}
