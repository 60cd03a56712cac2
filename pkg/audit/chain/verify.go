package chain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// Version is the apiVersion of the lines; docs/audit.md has their fields.
const Version = "audit.mayfly.dev/v1"

// begin is the beginning of every line.
const begin = `{"apiVersion":"` + Version + `"`

const (
	maxBreaks = 1000
	maxChains = 10_000
	maxWord   = 256
)

// Place is the position of a line in the files.
type Place struct {
	Name string `json:"file"`
	Line int    `json:"line"`
}

func (p Place) String() string {
	if p.Name == "" {
		return fmt.Sprintf("line %d", p.Line)
	}
	return fmt.Sprintf("%s:%d", p.Name, p.Line)
}

// Break is a place where a chain is broken.
type Break struct {
	Place
	Node string `json:"node,omitempty"`
	// Why says what is wrong, and what the cause may be.
	Why string `json:"why"`
}

// Chain is one chain in the files.
type Chain struct {
	ID    string `json:"id"`
	Node  string `json:"node"`
	First uint64 `json:"first"`
	// Last and Hash are those of its last line, for a comparison with a copy that
	// was noted elsewhere.
	Last uint64 `json:"last"`
	Hash string `json:"hash"`
	// Lines is the number of its lines in the files.
	Lines int       `json:"lines"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	// Open says that the files lack the lines before the first one, and have no
	// chain that ends with the line that the first one names.
	Open bool `json:"open,omitempty"`
	// Fresh says that its first line names no previous line.
	Fresh bool `json:"fresh,omitempty"`

	at Place // of its last line
}

// Verifier compares the lines with their links. Its memory is bounded for any
// input. The zero value is ready for use.
type Verifier struct {
	// Lines is the number of lines of a trail. Without is the number of those
	// before the first link of a node, as older drivers write them, and Lost the
	// number that drivers report as lost.
	Lines, Without, Lost int
	// Breaks are the first thousand breaks; More is the number of the others.
	Breaks []Break
	More   int

	chains map[string]*Chain
	order  []*Chain
	// latest has, for each node, the chain of its last line.
	latest map[string]*Chain
	torn   *torn
}

// torn is an incomplete line. A full disk leaves a part of a line, which the same
// complete line follows.
type torn struct {
	at   Place
	text string
}

// line has the fields of a line that are used.
type line struct {
	APIVersion string `json:"apiVersion"`
	Time       string `json:"time"`
	Node       string `json:"node"`
	Lost       int    `json:"lost"`
	Chain      *Link  `json:"chain"`
}

// at returns when the line was written; zero if it does not say.
func (l *line) at() time.Time {
	t, _ := time.Parse(time.RFC3339, l.Time)
	return t
}

// Read reads all lines of a log, and ignores those of other programs.
func (v *Verifier) Read(name string, r io.Reader) error {
	err := Lines(r, func(number int, text []byte) { v.Add(Place{name, number}, text) })
	v.End()
	return err
}

// End ends a log: nothing follows a torn line.
func (v *Verifier) End() {
	if v.torn != nil {
		v.fail(v.torn.at, "", "the line is not whole, and no whole one follows: it was cut, or a full disk or a kill has left it")
		v.torn = nil
	}
}

// Add reads one line, without its end.
func (v *Verifier) Add(at Place, text []byte) {
	if len(text) == 0 || text[0] != '{' {
		return
	}
	if v.torn != nil {
		if !bytes.HasPrefix(text, []byte(v.torn.text)) {
			v.End()
		}
		v.torn = nil
	}
	if !bytes.Contains(text, []byte(Version)) {
		if strings.HasPrefix(begin, string(text)) {
			v.torn = &torn{at, string(text)}
		}
		return
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		switch {
		case !bytes.HasPrefix(text, []byte(begin)): // another program's line
		case json.Valid(text):
			v.fail(at, "", "the line cannot be read: "+clip(err.Error()))
		default:
			v.torn = &torn{at, string(text)}
		}
		return
	}
	if l.APIVersion != Version {
		return // another program's line that quotes one
	}
	v.Lines++
	v.Lost += max(0, l.Lost)
	v.link(at, &l, hash(text))
}

// link compares a line with the previous one in its chain.
func (v *Verifier) link(at Place, l *line, sum string) {
	if v.chains == nil {
		v.chains, v.latest = map[string]*Chain{}, map[string]*Chain{}
	}
	k := l.Chain
	switch {
	case k == nil && v.latest[l.Node] == nil:
		v.Without++
		return
	case k == nil:
		v.fail(at, l.Node, "the line has no place in the chain, and lines before it have: it was put in, or an older driver has written it")
		return
	case !isID(k.ID) || k.Seq == 0 || k.Prev != "" && !isHash(k.Prev):
		v.fail(at, l.Node, "the line's place in the chain makes no sense: it was changed, or put in")
		return
	}
	c := v.chains[k.ID]
	if c == nil {
		v.start(at, l, sum)
		return
	}
	if why := c.follow(l); why != "" {
		v.fail(at, l.Node, why)
	}
	if k.Seq <= c.Last {
		return // the chain goes on after its last line
	}
	c.Last, c.Hash, c.at, c.Until = k.Seq, sum, at, l.at()
	c.Lines++
	v.latest[l.Node] = c
}

// follow returns what is wrong with a line that follows the last one of the chain;
// empty for nothing.
func (c *Chain) follow(l *line) string {
	k := l.Chain
	switch {
	case l.Node != c.Node:
		return fmt.Sprintf("the line names node %q, and its chain is of node %q: it was changed, or put in", clip(l.Node), clip(c.Node))
	case k.Seq <= c.Last:
		return fmt.Sprintf("line %d of the chain comes after line %d (%s): lines were moved or repeated, or the files are not given in the order of their time", k.Seq, c.Last, c.at)
	case k.Seq > c.Last+1:
		return fmt.Sprintf("%s missing between line %d of the chain (%s) and line %d: taken out, or in a file that is not given", missing(k.Seq-c.Last-1), c.Last, c.at, k.Seq)
	case k.Prev != c.Hash:
		return fmt.Sprintf("it does not follow from line %d of the chain (%s): one of the two was changed after it was written", c.Last, c.at)
	}
	return ""
}

func missing(n uint64) string {
	if n == 1 {
		return "1 line is"
	}
	return fmt.Sprintf("%d lines are", n)
}

// start begins a chain. If a driver found an earlier chain in its file, its first
// line names the last line of that.
func (v *Verifier) start(at Place, l *line, sum string) {
	k := l.Chain
	if len(v.chains) >= maxChains {
		v.fail(at, l.Node, fmt.Sprintf("it begins a chain, and there are %d before it: no driver begins so many", maxChains))
		return
	}
	c := &Chain{ID: k.ID, Node: l.Node, First: k.Seq, Last: k.Seq, Hash: sum, Lines: 1, From: l.at(), Until: l.at(), Fresh: k.Prev == "", at: at}
	earlier := v.latest[l.Node]
	switch {
	case k.Prev == "" || k.Seq == 1 && slices.ContainsFunc(v.order, func(c *Chain) bool { return c.Hash == k.Prev }):
	case k.Seq == 1 && earlier != nil:
		v.fail(at, l.Node, fmt.Sprintf("it begins a chain, and does not follow from the line before it (line %d of another chain, %s): lines were taken out between the two, or the earlier one was changed", earlier.Last, earlier.at))
	default:
		c.Open = true
	}
	if k.Prev == "" && k.Seq > 1 {
		v.fail(at, l.Node, fmt.Sprintf("line %d of the chain names no line before it: it was changed", k.Seq))
	}
	v.chains[k.ID], v.latest[l.Node] = c, c
	v.order = append(v.order, c)
}

func (v *Verifier) fail(at Place, node, why string) {
	if len(v.Breaks) >= maxBreaks {
		v.More++
		return
	}
	v.Breaks = append(v.Breaks, Break{Place: at, Node: clip(node), Why: why})
}

// Chains returns the chains in the files, in the order of their first lines.
func (v *Verifier) Chains() []*Chain { return v.order }

func clip(text string) string { return printable.Cut(text, maxWord) }
