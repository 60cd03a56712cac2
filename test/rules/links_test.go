package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
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

const root = "../.."

var (
	fence    = regexp.MustCompile("^ {0,3}(```+|~~~+)")
	codeSpan = regexp.MustCompile("(`+)[^`]*`+")
	heading  = regexp.MustCompile(`^#{1,6} +(.*?)( +#+)?$`)
	inline   = regexp.MustCompile(`\]\(<?([^()\s<>]+)>?(?: +"[^"]*")?\)`)
	defined  = regexp.MustCompile(`^ {0,3}\[[^\]]+\]: +<?([^\s<>]+)`)
	html     = regexp.MustCompile(`(?:href|src)="([^"]+)"`)
	scheme   = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	linkText = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// page has the data of a Markdown file for checking links.
type page struct {
	anchors map[string]bool
	links   []link
}

type link struct {
	line   int
	target string
}

// parse finds the headings and links outside of code. Lines that are indented
// by four spaces after a blank line are code.
func parse(text string) page {
	p := page{anchors: map[string]bool{}}
	inside, blank, code := "", true, false
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if match := fence.FindStringSubmatch(line); match != nil {
			switch {
			case inside == "":
				inside = match[1]
			case strings.HasPrefix(match[1], inside):
				inside = ""
			}
			continue
		}
		if inside != "" {
			continue
		}
		indented := strings.HasPrefix(line, "    ")
		code = indented && (blank || code)
		blank = strings.TrimSpace(line) == ""
		if code {
			continue
		}
		if match := heading.FindStringSubmatch(line); match != nil {
			p.addAnchor(match[1])
		}
		line = codeSpan.ReplaceAllString(line, "")
		for _, pattern := range []*regexp.Regexp{inline, defined, html} {
			for _, match := range pattern.FindAllStringSubmatch(line, -1) {
				p.links = append(p.links, link{number, match[1]})
			}
		}
	}
	return p
}

// addAnchor names a heading as GitHub does.
func (p page) addAnchor(title string) {
	title = linkText.ReplaceAllString(title, "$1")
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, title)
	name := slug
	for i := 1; p.anchors[name]; i++ {
		name = fmt.Sprintf("%s-%d", slug, i)
	}
	p.anchors[name] = true
}

// pages are all Markdown files, by their path from the root.
func pages(t *testing.T) map[string]page {
	t.Helper()
	all := map[string]page{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", "bin", "dist", ".cache":
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		all[name] = parse(string(data))
		return err
	})
	testkit.Must(t, err)
	return all
}

// broken says what is wrong with a link of a page; empty if nothing is.
func broken(all map[string]page, from, target string) string {
	if scheme.MatchString(target) || strings.HasPrefix(target, "//") {
		return ""
	}
	path, anchor, hasAnchor := strings.Cut(target, "#")
	name := from
	if path != "" {
		name = filepath.Join(filepath.Dir(from), path)
		if !filepath.IsLocal(name) {
			return "leads out of the repository"
		}
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			return "there is no " + name
		}
	}
	to, isPage := all[name]
	if hasAnchor && isPage && !to.anchors[anchor] {
		return fmt.Sprintf("%s has no heading %q", name, anchor)
	}
	return ""
}

// TestLinks: every relative link between the Markdown files leads somewhere.
func TestLinks(t *testing.T) {
	all := pages(t)
	count := 0
	for name, p := range all {
		for _, l := range p.links {
			count++
			if why := broken(all, name, l.target); why != "" {
				t.Errorf("%s:%d: the link to %s: %s", name, l.line, l.target, why)
			}
		}
	}
	if count < 50 {
		t.Errorf("%d links in %d pages: the test does not see them", count, len(all))
	}
}

// TestEveryPageIsFound: another page must link to every page of docs/, or nobody reads it.
func TestEveryPageIsFound(t *testing.T) {
	all := pages(t)
	linked := map[string]bool{}
	for name, p := range all {
		for _, l := range p.links {
			if path, _, _ := strings.Cut(l.target, "#"); path != "" && !scheme.MatchString(path) {
				if to := filepath.Join(filepath.Dir(name), path); to != name {
					linked[to] = true
				}
			}
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "docs/") && !linked[name] {
			t.Errorf("no page links to %s", name)
		}
	}
}

func TestLinksOfText(t *testing.T) {
	text := "# A `b` [c](d.md), e_f\n## Twice\n## Twice\n[x](one.md#y) ![i](p.svg \"t\") `[no](code.md)`\n\n    [no](indented.md)\n\n```\n[no](fenced.md)\n# no\n```\n- item\n    [yes](continued.md)\n\n[r]: two.md\n<img src=\"three.svg\">\n"
	p := parse(text)
	var targets []string
	for _, l := range p.links {
		targets = append(targets, l.target)
	}
	if got, want := strings.Join(targets, " "), "d.md one.md#y p.svg continued.md two.md three.svg"; got != want {
		t.Errorf("links %q, want %q", got, want)
	}
	for _, anchor := range []string{"a-b-c-e_f", "twice", "twice-1"} {
		if !p.anchors[anchor] {
			t.Errorf("no anchor %q in %v", anchor, p.anchors)
		}
	}
	all := map[string]page{"docs/a.md": p, "README.md": {}}
	for target, want := range map[string]bool{
		"#twice": true, "#thrice": false, "../README.md": true, "nowhere.md": false, "../../out.md": false,
		"https://example.com/x#y": true, "../README.md#none": false,
	} {
		if why := broken(all, "docs/a.md", target); (why == "") != want {
			t.Errorf("%s: %q", target, why)
		}
	}
}

var (
	// ownName is an annotation, a label or the like in Mayfly's or the Secrets
	// Store CSI driver's domain.
	ownName = regexp.MustCompile(`^([a-z]+\.)*(mayfly\.dev|secrets-store\.csi\.k8s\.io)/[a-z0-9-]+$`)
	// ofTheRow is the name that a row of a table begins with.
	ofTheRow = regexp.MustCompile("^\\| `([^`]+)` \\|")
)

// TestReferenceIsComplete: docs/reference.md lists every reason of an Event and
// every annotation, label and taint that the code has, and no others.
func TestReferenceIsComplete(t *testing.T) {
	text := testkit.Value(os.ReadFile(filepath.Join(root, "docs/reference.md")))(t)
	var events, names []string
	section := ""
	for line := range strings.Lines(string(text)) {
		if match := heading.FindStringSubmatch(strings.TrimSpace(line)); match != nil {
			section = match[1]
		}
		match := ofTheRow.FindStringSubmatch(line)
		switch {
		case match == nil:
		case section == "Events":
			events = append(events, match[1])
		case strings.Contains(match[1], "/"):
			names = append(names, match[1])
		}
	}
	c := code(t)
	if len(c.events) < 6 || len(c.names) < 9 {
		t.Fatalf("the test does not see the code's Events %q and names %q", c.events, c.names)
	}
	compare(t, "reasons of Events", events, c.events)
	compare(t, "annotations, labels and taints", names, c.names)
}

func compare(t *testing.T, what string, page, code []string) {
	t.Helper()
	slices.Sort(page)
	slices.Sort(code)
	if !slices.Equal(page, code) {
		t.Errorf("%s:\ndocs/reference.md has %q\nthe code has           %q", what, page, code)
	}
}

type codeNames struct{ events, names []string }

// code reads the constants of pkg/ and the names in the chart's default values.
func code(t *testing.T) codeNames {
	t.Helper()
	names := map[string]bool{"node.mayfly.dev/not-ready": false}
	var found codeNames
	err := filepath.WalkDir(filepath.Join(root, "pkg"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GenDecl:
				if n.Tok == token.CONST && strings.Contains(n.Doc.Text(), "reasons of the Events") {
					found.events = append(found.events, values(n)...)
				}
			case *ast.BasicLit:
				if value, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && ownName.MatchString(value) {
					names[value] = true
				}
			}
			return true
		})
		return nil
	})
	testkit.Must(t, err)
	chart := testkit.Value(os.ReadFile(filepath.Join(root, "charts/mayfly/values.yaml")))(t)
	if !strings.Contains(string(chart), "node.mayfly.dev/not-ready") {
		t.Error("the chart's startupTaint.key is another one")
	}
	found.names = slices.Collect(maps.Keys(names))
	return found
}

// values are the texts of a block of constants.
func values(decl *ast.GenDecl) []string {
	var all []string
	for _, spec := range decl.Specs {
		for _, value := range spec.(*ast.ValueSpec).Values {
			if literal, ok := value.(*ast.BasicLit); ok {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					all = append(all, text)
				}
			}
		}
	}
	return all
}
