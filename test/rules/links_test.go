package rules

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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
