// Package pages reads the code blocks of README.md and docs/, so that tests
// can run them as they are printed. A block that cannot run has a comment of
// its own before it, which does not show on the page:
//
//	<!-- not run: needs an account of AWS -->
package pages

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Kind says how a block is tested.
type Kind int

// The kinds of blocks. An indented block is a Shell.
const (
	Other Kind = iota // cannot run, and needs a mark
	Shell             // run by bash
	YAML              // Kubernetes objects or values of the chart
)

// Block is one code block of a page.
type Block struct {
	Page string // path from the root of the repository
	Line int    // the first line of Text
	// Section is the title of the heading above it.
	Section string
	Kind    Kind
	Text    string
	// NotRun is the reason of the mark before it; empty if it runs.
	NotRun string
}

// String is the position in the form for editors.
func (b Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

var (
	fence    = regexp.MustCompile("^( {0,3})(```+|~~~+) *([a-zA-Z]*)")
	heading  = regexp.MustCompile(`^#{1,6} +(.*?)( +#+)?$`)
	mark     = regexp.MustCompile(`^<!-- not run: (.*\S) -->$`)
	markLike = regexp.MustCompile(`(?i)^ *<!--.*\bnot[ -]run\b`)
)

// Files are README.md and the pages of docs/, by their paths from the root.
func Files(root string) ([]string, error) {
	files := []string{"README.md"}
	err := fs.WalkDir(os.DirFS(root), "docs", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// Read reads the blocks of all Files, page by page.
func Read(root string) ([]Block, error) {
	files, err := Files(root)
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		more, err := Parse(name, string(text))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, more...)
	}
	return blocks, nil
}

// Parse reads the blocks of a page: fenced ones, and lines that are indented by
// four spaces after a blank line. A mark without a block is an error.
func Parse(page, text string) ([]Block, error) {
	p := parser{page: page, blank: true}
	for line := range strings.Lines(text) {
		p.number++
		if err := p.line(strings.TrimRight(line, "\r\n")); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", page, p.number, err)
		}
	}
	if p.inside != "" {
		return nil, fmt.Errorf("%s:%d: the block does not end", page, p.block.Line-1)
	}
	p.end()
	if p.reason != "" {
		return nil, fmt.Errorf("%s: the mark %q has no block after it", page, p.reason)
	}
	return p.blocks, nil
}

type parser struct {
	page, section string
	number        int
	blank         bool   // the line before is blank, or begins the page
	reason        string // of a mark whose block has not come yet
	inside        string // the fence of the block that is being read
	indent        string // of that fence
	block         *Block
	blocks        []Block
}

func (p *parser) line(line string) error {
	if p.inside != "" {
		if match := fence.FindStringSubmatch(line); match != nil && match[3] == "" && strings.HasPrefix(match[2], p.inside) {
			p.inside = ""
			p.end()
			return nil
		}
		p.block.Text += strings.TrimPrefix(line, p.indent) + "\n"
		return nil
	}
	blank := strings.TrimSpace(line) == ""
	code, indented := strings.CutPrefix(line, "    ")
	switch {
	case blank:
		if p.block != nil {
			p.block.Text += "\n"
		}
	case indented && (p.block != nil || p.blank):
		if p.block == nil {
			p.begin(p.number, Shell)
		}
		p.block.Text += code + "\n"
	default:
		return p.prose(line)
	}
	p.blank = blank
	return nil
}

// prose reads a line outside of blocks.
func (p *parser) prose(line string) error {
	p.end()
	p.blank = false
	if match := fence.FindStringSubmatch(line); match != nil {
		p.begin(p.number+1, kindOf(match[3]))
		p.indent, p.inside = match[1], match[2]
		return nil
	}
	if p.reason != "" {
		return fmt.Errorf("the mark %q has no block right after it", p.reason)
	}
	if match := mark.FindStringSubmatch(line); match != nil {
		p.reason, p.blank = match[1], true
	} else if markLike.MatchString(line) {
		return fmt.Errorf("a mark is a line of its own: <!-- not run: the reason -->")
	}
	if match := heading.FindStringSubmatch(line); match != nil {
		p.section, p.blank = match[1], true
	}
	return nil
}

func (p *parser) begin(line int, kind Kind) {
	p.block = &Block{Page: p.page, Line: line, Section: p.section, Kind: kind, NotRun: p.reason}
	p.reason = ""
}

func (p *parser) end() {
	if p.block == nil {
		return
	}
	p.block.Text = strings.TrimRight(p.block.Text, "\n") + "\n"
	p.blocks = append(p.blocks, *p.block)
	p.block = nil
}

func kindOf(language string) Kind {
	switch strings.ToLower(language) {
	case "sh", "bash", "shell", "console":
		return Shell
	case "yaml", "yml":
		return YAML
	}
	return Other
}

// Session is a reader's shell: bash, which runs the blocks of a page one after the other and keeps
// variables and the working directory between them.
type Session struct {
	env   []string
	state string
}

// NewSession begins in the directory work. scratch is an empty directory for
// the session's own files. env is all of bash's environment.
func NewSession(scratch, work string, env []string) (*Session, error) {
	s := &Session{env: env, state: filepath.Join(scratch, "state")}
	if err := os.WriteFile(s.state, fmt.Appendf(nil, "cd %q\n", work), 0o600); err != nil {
		return nil, err
	}
	return s, nil
}

// The first failed command ends a block. Every variable that a block sets is exported, and so kept.
const script = `set -aeo pipefail
. "$1"
eval "$2"
{ export -p; printf 'cd %q\n' "$PWD"; } >"$1"
`

// Run runs a block and returns what it printed. It ends with ctx.
func (s *Session) Run(ctx context.Context, text string) (string, error) {
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", script, "bash", s.state, text)
	cmd.Env = s.env
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return out.String(), err
}
