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

// begin is the beginning of every line, and family that of every version of the
// format.
const (
	begin  = family + `v1"`
	family = `{"apiVersion":"audit.mayfly.dev/`
)

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

	at     Place // of its last line
	writer string
}

// Verifier compares the lines with their links. Its memory is bounded for any
// input. The zero value is ready for use.
type Verifier struct {
	// Lines is the number of lines of a trail. Without is the number of those
	// before the first link of a node, as older drivers write them, and Lost the
	// number that drivers report as lost. Others is the number of lines that are of
	// no trail.
	Lines, Without, Lost, Others int
	// Breaks are the first thousand breaks; More is the number of the others.
	Breaks []Break
	More   int

	chains map[string]*Chain
	order  []*Chain
	// latest has, for each writer, the chain of its last line.
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
	// Pod and Peer tell the lines of a driver and of a mayfly-kms apart.
	Pod  *struct{} `json:"pod"`
	Peer *struct{} `json:"peer"`
}

// writer names the program that wrote the line: a node may have a driver and a
// mayfly-kms, each with chains of its own.
func (l *line) writer() string {
	if l.Peer != nil && l.Pod == nil {
		return "mayfly-kms on " + l.Node
	}
	return "driver on " + l.Node
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
	if v.torn != nil && len(text) > 0 && text[0] == '{' {
		if !bytes.HasPrefix(text, []byte(v.torn.text)) {
			v.End()
		}
		v.torn = nil
	}
	ours := bytes.HasPrefix(text, []byte(family))
	var l line
	switch {
	case len(text) == 0:
		return
	case strings.HasPrefix(begin, string(text)):
		v.torn = &torn{at, string(text)}
		return
	case !ours && (text[0] != '{' || !bytes.Contains(text, []byte(Version))):
		v.Others++
		return
	}
	err := json.Unmarshal(text, &l)
	switch {
	case !ours && (err != nil || l.APIVersion != Version): // it quotes a line
		v.Others++
	case err != nil && !json.Valid(text):
		v.torn = &torn{at, string(text)}
	case err != nil:
		v.fail(at, "", "the line cannot be read: "+clip(err.Error()))
	case l.APIVersion != Version:
		v.fail(at, "", fmt.Sprintf("the line has the version %q, which this program does not know: it was changed, or put in, or a newer driver has written it", clip(l.APIVersion)))
	default:
		v.Lines++
		v.Lost += max(0, l.Lost)
		l.Node = printable.Text(l.Node, maxWord)
		v.link(at, &l, hash(text))
	}
}

// link compares a line with the previous one in its chain.
func (v *Verifier) link(at Place, l *line, sum string) {
	if v.chains == nil {
		v.chains, v.latest = map[string]*Chain{}, map[string]*Chain{}
	}
	k, writer := l.Chain, l.writer()
	switch {
	case k == nil && v.latest[writer] == nil:
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
	why := c.follow(l)
	if later := v.latest[c.writer]; why == "" && later != c {
		why = fmt.Sprintf("the chain goes on, and a later one of the same node has begun (%s): lines were moved or put in, or two drivers have written to these files", later.at)
	}
	if why != "" {
		v.fail(at, l.Node, why)
	}
	if k.Seq <= c.Last {
		return // the chain goes on after its last line
	}
	c.Last, c.Hash, c.at, c.Until = k.Seq, sum, at, l.at()
	c.Lines++
	v.latest[c.writer] = c
}

// follow returns what is wrong with a line that follows the last one of the chain;
// empty for nothing.
func (c *Chain) follow(l *line) string {
	k := l.Chain
	switch {
	case l.Node != c.Node:
		return fmt.Sprintf("the line names node %q, and its chain is of node %q: it was changed, or put in", l.Node, c.Node)
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

// start begins a chain.
func (v *Verifier) start(at Place, l *line, sum string) {
	k := l.Chain
	if len(v.chains) >= maxChains {
		v.fail(at, l.Node, fmt.Sprintf("it begins a chain, and there are %d before it: no driver begins so many", maxChains))
		return
	}
	c := &Chain{ID: k.ID, Node: l.Node, First: k.Seq, Last: k.Seq, Hash: sum, Lines: 1, From: l.at(), Until: l.at(), Fresh: k.Prev == "", at: at, writer: l.writer()}
	if why := v.begins(c, k.Prev); why != "" {
		v.fail(at, l.Node, why)
	}
	v.chains[k.ID], v.latest[c.writer] = c, c
	v.order = append(v.order, c)
}

// begins returns what is wrong with the first line of a chain; empty for nothing. If
// a writer found an earlier chain in its file, the line names the last line of that.
func (v *Verifier) begins(c *Chain, prev string) string {
	earlier := v.latest[c.writer]
	named := slices.IndexFunc(v.order, func(c *Chain) bool { return c.Hash == prev })
	switch {
	case prev == "" && c.First > 1:
		return fmt.Sprintf("line %d of the chain names no line before it: it was changed", c.First)
	case prev == "":
		return ""
	case c.First == 1 && named >= 0 && (v.order[named] == earlier || v.order[named].writer != c.writer):
		return ""
	case earlier != nil && c.First == 1:
		return fmt.Sprintf("it begins a chain, and does not follow from the line before it (line %d of another chain, %s): lines were taken out between the two, or the earlier one was changed", earlier.Last, earlier.at)
	case earlier != nil:
		return fmt.Sprintf("it is line %d of its chain, and no line of that is before it: taken out after line %d of another chain (%s), or in a file that is not given", c.First, earlier.Last, earlier.at)
	}
	c.Open = true
	return ""
}

func (v *Verifier) fail(at Place, node, why string) {
	if len(v.Breaks) >= maxBreaks {
		v.More++
		return
	}
	v.Breaks = append(v.Breaks, Break{Place: at, Node: node, Why: why})
}

// Chains returns the chains in the files, in the order of their first lines.
func (v *Verifier) Chains() []*Chain { return v.order }

func clip(text string) string { return printable.Cut(text, maxWord) }
