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

// begin is how every line begins.
const begin = `{"apiVersion":"` + Version + `"`

const (
	maxBreaks = 1000
	maxChains = 10_000
	maxWord   = 256
)

// Place is a line of what was read.
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

// Break is a place where a chain does not hold.
type Break struct {
	Place
	Node string `json:"node,omitempty"`
	// Why says what does not hold, and what that can come from.
	Why string `json:"why"`
}

// Chain is one of those that were read.
type Chain struct {
	ID    string `json:"id"`
	Node  string `json:"node"`
	First uint64 `json:"first"`
	// Last and Hash are of its last line: for comparison with what was noted elsewhere.
	Last uint64 `json:"last"`
	Hash string `json:"hash"`
	// Lines are how many of them were read.
	Lines int       `json:"lines"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	// Open tells that lines before the first were not in what was read, and no
	// chain there ends in what the first one names.
	Open bool `json:"open,omitempty"`
	// Fresh tells that its first line names no line before it.
	Fresh bool `json:"fresh,omitempty"`

	at Place // of its last line
}

// Verifier holds lines against each other. What it keeps is bounded, whatever it
// reads. The zero value is ready.
type Verifier struct {
	// Lines are those of a trail, Without those before a node's first link, as
	// older drivers write them, Lost those that a driver says it lost.
	Lines, Without, Lost int
	// Breaks are the first thousand, More how many there are beside.
	Breaks []Break
	More   int

	chains map[string]*Chain
	order  []*Chain
	// latest is each node's chain that had the last line.
	latest map[string]*Chain
	torn   *torn
}

// torn is a line that is no whole one. What a full disk has left of a line is
// followed by the same line, whole.
type torn struct {
	at   Place
	text string
}

// line is the part of a trail's line that is used.
type line struct {
	APIVersion string `json:"apiVersion"`
	Time       string `json:"time"`
	Node       string `json:"node"`
	Lost       int    `json:"lost"`
	Chain      *Link  `json:"chain"`
}

// at is when the line was written; zero where it does not say.
func (l *line) at() time.Time {
	t, _ := time.Parse(time.RFC3339, l.Time)
	return t
}

// Read takes all lines of a log. Others than those of a trail are left out.
func (v *Verifier) Read(name string, r io.Reader) error {
	err := Lines(r, func(number int, text []byte) { v.Add(Place{name, number}, text) })
	v.End()
	return err
}

// End tells that a log has ended, so that nothing follows a torn line.
func (v *Verifier) End() {
	if v.torn != nil {
		v.fail(v.torn.at, "", "the line is not whole, and no whole one follows: it was cut, or a full disk or a kill has left it")
		v.torn = nil
	}
}

// Add takes one line, without its end.
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
		return // another program's line that speaks of one
	}
	v.Lines++
	v.Lost += max(0, l.Lost)
	v.link(at, &l, hash(text))
}

// link holds a line against the one before it in its chain.
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

// follow says what is wrong with a line after the last one of the chain; empty
// for nothing.
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

// start begins with a chain. The first line of a driver that found an earlier
// chain in its file names the last line of that.
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

// Chains are those of what was read, in the order of their first lines.
func (v *Verifier) Chains() []*Chain { return v.order }

func clip(text string) string { return printable.Cut(text, maxWord) }
