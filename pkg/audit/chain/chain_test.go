package chain

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// written gives the lines of a chain that begins after last, with further fields.
func written(node string, n int, last []byte, more ...string) [][]byte {
	h := Begin(last)
	var lines [][]byte
	for i := range n {
		var text []byte
		text, h = h.Add(nil, fmt.Appendf(nil, `{"apiVersion":%q,"time":"2026-03-01T09:30:%02d.000Z","event":"publish","node":%q,"volume":"csi-%d"%s}`+"\n", Version, i, node, i, strings.Join(append([]string{""}, more...), ",")))
		lines = append(lines, bytes.TrimSuffix(text, []byte("\n")))
	}
	return lines
}

func joined(lines ...[]byte) string { return string(bytes.Join(lines, []byte("\n"))) + "\n" }

func edited(lines [][]byte, i int, old, by string) [][]byte {
	out := slices.Clone(lines)
	out[i] = bytes.Replace(out[i], []byte(old), []byte(by), 1)
	return out
}

func TestVerify(t *testing.T) {
	a, b := written("n1", 6, nil), written("n2", 4, nil)
	next := written("n1", 3, a[5])
	kms := written("n1", 4, nil, `"peer":{"pid":1}`)
	swapped := slices.Clone(a)
	swapped[2], swapped[3] = swapped[3], swapped[2]
	mixed := [][]byte{}
	for i := range b {
		mixed = append(mixed, a[i], b[i])
	}
	cri := ""
	for _, l := range a {
		cri += fmt.Sprintf("2026-03-01T09:30:00.1Z stdout P %s\n2026-03-01T09:30:00.1Z stderr F {\"msg\":\"x\"}\n2026-03-01T09:30:00.2Z stdout F %s\n", l[:40], l[40:])
	}
	old := []byte(`{"apiVersion":"` + Version + `","time":"2026-03-01T09:30:00.000Z","event":"publish","node":"n1"}`)
	for _, tc := range []struct {
		name string
		text string
		want []string // for each break: its line, and words
	}{
		{"whole", joined(a...), nil},
		{"two nodes mixed", joined(mixed...), nil},
		{"a restart that links up", joined(slices.Concat(a, next)...), nil},
		{"a new chain", joined(slices.Concat(a, written("n1", 2, nil))...), nil},
		{"begins later", joined(a[2:]...), nil},
		{"a link to a file that is not given", joined(next...), nil},
		{"of an older driver, at first", joined(slices.Concat([][]byte{old}, a)...), nil},
		{"other programs' lines", "time=x level=INFO\n{\"msg\":1}\n" + joined(a...) + "{\"msg\":\"" + Version + "\"}\n", nil},
		{"in kubelet's files", cri, nil},
		{"what kubectl logs puts before", "[pod/a-b/mayfly] 2026-03-01T09:30:00.1Z " + string(a[0]) + "\n" + joined(a[1:]...), nil},
		{"torn, and then whole", joined(a[0], a[1][:30], a[1], a[2][:3], a[2]), nil},
		{"edited", joined(edited(a, 2, "csi-2", "csi-9")...), []string{"4 does not follow from line 3 of the chain (log:3)"}},
		{"the last one edited and linked to", joined(slices.Concat(edited(a, 5, "csi-5", "csi-9"), next)...), []string{"7 begins a chain, and does not follow"}},
		{"one taken out", joined(slices.Concat(a[:2], a[3:])...), []string{"3 1 line is missing between line 2 of the chain (log:2) and line 4"}},
		{"some taken out", joined(slices.Concat(a[:1], a[4:])...), []string{"2 3 lines are missing"}},
		{"cut off between two chains", joined(slices.Concat(a[:4], next)...), []string{"5 begins a chain, and does not follow from the line before it (line 4 of another chain, log:4)"}},
		{"swapped", joined(swapped...), []string{"3 1 line is missing", "4 line 3 of the chain comes after line 4"}},
		{"repeated", joined(a[0], a[1], a[1], a[2]), []string{"3 line 2 of the chain comes after line 2"}},
		{"put in without a place", joined(a[0], old, a[1]), []string{"2 the line has no place in the chain"}},
		{"another node's name", joined(edited(a, 1, `"n1"`, `"n2"`)...), []string{`2 the line names node "n2"`, "3 does not follow"}},
		{"no place at all", joined(edited(a, 1, `"seq":2`, `"seq":0`)...), []string{"2 the line's place in the chain makes no sense", "3 1 line is missing"}},
		{"the begin cut off the chain", joined(edited(a[2:], 0, `"prev"`, `"prv"`)...), []string{"1 names no line before it", "2 does not follow"}},
		{"torn for good", joined(a[0], a[1][:90], a[2]), []string{"2 the line is not whole", "3 1 line is missing"}},
		{"torn at the end", joined(a[0], a[1]) + string(a[2][:50]), []string{"3 the line is not whole"}},
		{"cut off between two chains, and the begin of the later one", joined(slices.Concat(a[:4], next[1:])...), []string{"5 it is line 2 of its chain, and no line of that is before it: taken out after line 4 of another chain (log:4)"}},
		{"a chain put in", joined(a[0], a[1], written("n1", 1, nil)[0], a[2]), []string{"4 the chain goes on, and a later one of the same node has begun (log:3)"}},
		{"a chain taken out", joined(slices.Concat(a, written("n1", 1, next[2]))...), []string{"7 begins a chain, and does not follow"}},
		{"a chain moved before an earlier one", joined(slices.Concat(a, next, written("n1", 2, a[5]))...), []string{"10 begins a chain, and does not follow from the line before it (line 3 of another chain, log:9)"}},
		{"put in with another version", joined(a[0], bytes.Replace(old, []byte("/v1"), []byte("/v2"), 1), a[1]), []string{`2 the line has the version "audit.mayfly.dev/v2"`}},
		{"put in with an escaped version", joined(a[0], bytes.Replace(old, []byte("/v1"), []byte(`/\u0076\u0031`), 1), a[1]), []string{"2 the line has no place in the chain"}},
		{"put in with a second version", joined(a[0], bytes.Replace(old, []byte(`"node"`), []byte(`"APIVERSION":"x","node"`), 1), a[1]), []string{`2 the line has the version "x"`}},
		{"a driver and mayfly-kms mixed", joined(a[0], kms[2], a[1], kms[3], a[2]), nil},
		{"a field of another kind", joined(a[0], bytes.Replace(a[1], []byte(`"n1"`), []byte(`7`), 1)), []string{"2 the line cannot be read"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var v Verifier
			testkit.Must(t, v.Read("log", strings.NewReader(tc.text)))
			ok := len(v.Breaks) == len(tc.want)
			for i := range min(len(v.Breaks), len(tc.want)) {
				line, words, _ := strings.Cut(tc.want[i], " ")
				ok = ok && fmt.Sprint(v.Breaks[i].Line) == line && strings.Contains(v.Breaks[i].Why, words)
			}
			if !ok {
				t.Errorf("breaks %q, want %q", v.Breaks, tc.want)
			}
		})
	}
}

// Every change of one byte shows, but in the last line: nothing follows that.
func TestEveryEditShows(t *testing.T) {
	lines := written("n1", 3, nil)
	for i := range lines[1] {
		var v Verifier
		changed := slices.Clone(lines[1])
		changed[i] ^= 1
		testkit.Must(t, v.Read("log", strings.NewReader(joined(lines[0], changed, lines[2]))))
		if len(v.Breaks) == 0 {
			t.Errorf("a change of byte %d does not show: %s", i, changed)
		}
	}
}

func TestChains(t *testing.T) {
	a := written("n1", 6, nil)
	var v Verifier
	for _, part := range [][][]byte{a[2:4], a[4:]} { // two files
		testkit.Must(t, v.Read("log", strings.NewReader(joined(part...))))
	}
	c := v.Chains()[0]
	if len(v.Chains()) != 1 || len(v.Breaks) != 0 || !c.Open || c.First != 3 || c.Last != 6 || c.Lines != 4 || c.Hash != hash(a[5]) || c.Until.Second() != 5 {
		t.Errorf("%+v, breaks %v", c, v.Breaks)
	}
}

// What it keeps of hostile lines is bounded.
func TestVerifyIsBounded(t *testing.T) {
	var v Verifier
	for range 2 * maxChains {
		v.Add(Place{"log", 1}, written("n1", 1, nil)[0])
	}
	if len(v.Chains()) != maxChains || len(v.Breaks) != maxBreaks || v.More != maxChains-maxBreaks {
		t.Errorf("%d chains, %d breaks, %d more", len(v.Chains()), len(v.Breaks), v.More)
	}
	var names Verifier
	h := Begin(nil)
	for range maxBreaks {
		var text []byte
		node := strings.Repeat("\x1b", maxWord) + newID()
		text, h = h.Add(nil, fmt.Appendf(nil, `{"apiVersion":%q,"node":"%s"}`, Version, strings.ReplaceAll(node, "\x1b", `\u001b`)))
		names.Add(Place{"log", 1}, bytes.TrimSpace(text))
	}
	if c := names.Chains()[0]; len(names.latest) != 1 || len(c.Node) > 7*maxWord || strings.Contains(c.Node, "\x1b") {
		t.Errorf("%d nodes, the first %q", len(names.latest), c.Node)
	}
	long := 0
	text := "2026-03-01T09:30:00.1Z stdout P " + strings.Repeat("x", MaxLine) + "\n"
	if err := Lines(strings.NewReader(strings.Repeat(text, 4)+"2026-03-01T09:30:00.1Z stdout F y\n"), func(_ int, l []byte) { long = len(l) }); err != nil || long != MaxLine+1 {
		t.Errorf("a line of %d bytes: %v", long, err)
	}
}

func TestHead(t *testing.T) {
	_, h := Begin(nil).Add(nil, []byte("{\"a\":1}\n"))
	_, next := h.Add(nil, []byte("{\"a\":1}\n"))
	for _, h := range []Head{Begin(nil), Begin([]byte("x")), h, next, {ID: h.ID, Seq: 1<<64 - 1, Hash: h.Hash, Before: h.Hash}} {
		text := h.Encode()
		if got, err := DecodeHead(text); err != nil || got != h || len(text) != headSize {
			t.Errorf("%q of %d bytes: %+v, %v", text, len(text), got, err)
		}
	}
	for _, text := range []string{"", "{}", "null", `{"id":"x","seq":1}`, strings.Repeat(" ", headSize) + "{}", strings.Replace(string(h.Encode()), `"hash":"`, `"hash":"x`, 1)} {
		if _, err := DecodeHead([]byte(text)); err == nil {
			t.Errorf("%q is a head", text)
		}
	}
}

func FuzzVerify(f *testing.F) {
	a := written("n1", 3, nil)
	f.Add(joined(a...))
	f.Add("2026-03-01T09:30:00.1Z stdout P {\n" + joined(a[1], a[0], a[1][:30]))
	f.Fuzz(func(t *testing.T, text string) {
		var v Verifier
		testkit.Must(t, v.Read("log", strings.NewReader(text)))
		if lines := strings.Count(text, "\n") + 1; v.Lines > lines || len(v.Breaks)+v.More > 2*lines+1 {
			t.Errorf("%d lines, %d breaks of %d lines", v.Lines, len(v.Breaks)+v.More, lines)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	line := []byte(`{"apiVersion":"` + Version + `","pad":"` + strings.Repeat("x", 700) + "\"}\n")
	h := Begin(nil)
	b.ReportAllocs()
	for b.Loop() {
		_, h = h.Add(nil, line)
	}
}
