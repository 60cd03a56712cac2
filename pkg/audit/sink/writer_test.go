package sink

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// memory keeps the head as the state of a node does.
type memory struct {
	text []byte
	fail error
}

func (m *memory) Load() (chain.Head, bool, error) {
	if len(m.text) == 0 {
		return chain.Head{}, false, nil
	}
	h, err := chain.DecodeHead(m.text)
	return h, err == nil, err
}

func (m *memory) Save(h chain.Head) error {
	if m.fail == nil {
		m.text = h.Encode()
	}
	return m.fail
}

// out is a standard output that fails when told.
type out struct {
	bytes.Buffer
	fail error
}

func (o *out) Write(p []byte) (int, error) {
	if o.fail != nil {
		return 0, o.fail
	}
	return o.Buffer.Write(p)
}

const plain = `{"apiVersion":"audit.mayfly.dev/v1","time":"2026-03-01T09:30:00.125Z","event":"publish","node":"n1"}` + "\n"

// process is one life of a driver that writes so many lines.
func process(t *testing.T, path string, o *out, m Memory, lines int) *Writer {
	t.Helper()
	w := testkit.Value(OpenChain(path, o, m, slog.New(slog.DiscardHandler)))(t)
	for range lines {
		testkit.Must(t, w.write(plain))
	}
	t.Cleanup(w.Close)
	return w
}

// holds verifies files and gives their chains and breaks.
func holds(t *testing.T, names ...string) *chain.Verifier {
	t.Helper()
	v := &chain.Verifier{}
	for _, name := range names {
		text := testkit.Value(os.ReadFile(name))(t)
		testkit.Must(t, v.Read(filepath.Base(name), bytes.NewReader(text)))
	}
	return v
}

// write writes lines, each alone.
func (w *Writer) write(lines ...string) error {
	for _, line := range lines {
		if _, err := w.Write([]byte(line)); err != nil {
			return err
		}
	}
	return nil
}

func wantChains(t *testing.T, v *chain.Verifier, lines int, chains int) {
	t.Helper()
	if len(v.Breaks) != 0 || v.Lines != lines || len(v.Chains()) != chains {
		t.Errorf("%d lines in %d chains, breaks %v; want %d lines in %d chains", v.Lines, len(v.Chains()), v.Breaks, lines, chains)
	}
}

func TestChainOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	m := &memory{}
	process(t, path, nil, m, 3).Close()
	process(t, path, nil, m, 2).Close()
	wantChains(t, holds(t, path), 5, 1)
	m.text = nil // a reboot
	process(t, path, nil, m, 2).Close()
	v := holds(t, path)
	wantChains(t, v, 7, 2)
	if c := v.Chains()[1]; c.Fresh || c.Open {
		t.Errorf("the chain after the reboot does not name the line before it: %+v", c)
	}
	// Rotation while the driver runs, and while it does not.
	w := process(t, path, nil, m, 1)
	testkit.Must(t, os.Rename(path, path+".2"))
	testkit.Must(t, w.write(plain))
	w.Close()
	testkit.Must(t, os.Rename(path, path+".1"))
	process(t, path, nil, m, 1)
	wantChains(t, holds(t, path+".2", path+".1", path), 10, 2)
}

func TestChainOnStandardOutput(t *testing.T) {
	m, o := &memory{}, &out{}
	process(t, "-", o, m, 3)
	process(t, "-", o, m, 2)
	var v chain.Verifier
	testkit.Must(t, v.Read("-", strings.NewReader(o.String())))
	wantChains(t, &v, 5, 1)
	process(t, "-", o, nil, 2) // a reboot
	v = chain.Verifier{}
	testkit.Must(t, v.Read("-", strings.NewReader(o.String())))
	wantChains(t, &v, 7, 2)
	if c := v.Chains()[1]; !c.Fresh {
		t.Errorf("the chain after a reboot claims to follow a line: %+v", c)
	}
}

// What was cut off the file while no driver ran shows once one runs again.
func TestCutWhileTheDriverWasAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	m := &memory{}
	process(t, path, nil, m, 4).Close()
	text := testkit.Value(os.ReadFile(path))(t)
	lines := bytes.SplitAfter(text, []byte("\n"))
	testkit.Must(t, os.WriteFile(path, bytes.Join(lines[:2], nil), 0o600))
	process(t, path, nil, m, 1)
	if v := holds(t, path); len(v.Breaks) != 1 || !strings.Contains(v.Breaks[0].Why, "2 lines are missing between line 2") {
		t.Errorf("breaks %v", v.Breaks)
	}
}

// killed is a file whose process is killed after a part of a write.
type killed struct {
	Sink
	part func(text []byte) []byte
}

func (k killed) Write(text []byte) (int, error) {
	_, _ = k.Sink.Write(k.part(text))
	panic(k)
}

// A kill between the save of the head and the write leaves out nothing in a file. Of lines that
// are written together, those that a kill cuts off are missing if others are there.
func TestKilledInAWrite(t *testing.T) {
	for _, tc := range []struct {
		name            string
		part            func([]byte) []byte
		lines, together int
		missing         string
	}{
		{"before a line", func(text []byte) []byte { return nil }, 0, 1, ""},
		{"before several", func(text []byte) []byte { return nil }, 0, 3, ""},
		{"within the first", func(text []byte) []byte { return text[:50] }, 0, 3, ""},
		{"after the first of three", func(text []byte) []byte { return text[:bytes.IndexByte(text, '\n')+1] }, 1, 3, "2 lines are missing"},
	} {
		for _, written := range []int{0, 2} {
			path := filepath.Join(t.TempDir(), "audit.log")
			m := &memory{}
			w := process(t, path, nil, m, written)
			w.out = killed{w.out, tc.part}
			func() {
				defer func() { _ = recover() }()
				_, _ = w.Write(slices.Repeat([][]byte{[]byte(plain)}, tc.together)...)
			}()
			process(t, path, nil, m, 2)
			v := holds(t, path)
			if tc.missing == "" {
				wantChains(t, v, written+tc.lines+2, 1)
			} else if len(v.Breaks) != 1 || !strings.Contains(v.Breaks[0].Why, tc.missing) || v.Lines != written+tc.lines+2 {
				t.Errorf("%s: %d lines, breaks %v", tc.name, v.Lines, v.Breaks)
			}
		}
	}
}

func TestFailedWritesTakeNoNumber(t *testing.T) {
	m, o := &memory{}, &out{}
	w := process(t, "-", o, m, 0)
	for range 2 {
		o.fail = errors.New("full")
		if w.write(plain) == nil {
			t.Fatal("it was written")
		}
		o.fail = nil
		testkit.Must(t, w.write(plain))
	}
	o.fail = errors.New("full")
	_ = w.write(plain) // given up
	o.fail = nil
	process(t, "-", o, m, 1)
	var v chain.Verifier
	testkit.Must(t, v.Read("-", strings.NewReader(o.String())))
	wantChains(t, &v, 3, 1)
	testkit.Equal(t, "number of the last line", w.Seq(), 2)
}

// shortOut takes a part of the next write, as a full disk does.
type shortOut struct {
	bytes.Buffer
	room int
}

func (o *shortOut) Write(p []byte) (int, error) {
	if o.room >= len(p) {
		return o.Buffer.Write(p)
	}
	n, _ := o.Buffer.Write(p[:o.room])
	o.room = 1 << 20
	return n, errors.New("full")
}

// Standard output may be a file on a full disk.
func TestPartsOfLinesOnStandardOutput(t *testing.T) {
	for room := 0; room < 900 && !t.Failed(); room++ {
		o := &shortOut{room: room}
		w := testkit.Value(OpenChain("-", o, nil, slog.New(slog.DiscardHandler)))(t)
		for left := slices.Repeat([][]byte{[]byte(plain)}, 3); len(left) > 0; {
			n, err := w.Write(left[:min(len(left), 1+room%2)]...)
			if n == 0 && err == nil {
				t.Fatal("no line is written, without an error")
			}
			left = left[n:]
		}
		var v chain.Verifier
		testkit.Must(t, v.Read("-", strings.NewReader(o.String())))
		wantChains(t, &v, 3, 1)
	}
}

func TestBadMemoryBeginsANewChain(t *testing.T) {
	for _, m := range []*memory{{text: []byte("no head")}, {fail: errors.New("full")}} {
		o, log := &out{}, &testkit.Log{}
		for range 2 {
			w := testkit.Value(OpenChain("-", o, m, slog.New(slog.NewTextHandler(log, nil))))(t)
			testkit.Must(t, w.write(plain))
			testkit.Must(t, w.write(plain))
			if m.fail == nil {
				m.text = []byte("no head")
			}
		}
		var v chain.Verifier
		testkit.Must(t, v.Read("-", strings.NewReader(o.String())))
		wantChains(t, &v, 4, 2)
		testkit.Equal(t, "log lines, one for each process", log.Count("audit trail"), 2)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, chained := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "chained"}[chained], func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "audit.log")
			line := []byte(strings.Replace(plain, `"n1"`, `"n1","pad":"`+strings.Repeat("x", 700)+`"`, 1))
			s := testkit.Value(Open(path, nil))(b)
			write := s.Write
			if chained {
				end := testkit.Value(os.Create(filepath.Join(b.TempDir(), "audit.end")))(b)
				w := testkit.Value(OpenChain(path, nil, endFile{end}, slog.New(slog.DiscardHandler)))(b)
				write = func(line []byte) (int, error) { return w.Write(line) }
			}
			for b.Loop() {
				testkit.Value(write(line))(b)
			}
		})
	}
}

// endFile writes the head as the driver does.
type endFile struct{ f *os.File }

func (e endFile) Load() (chain.Head, bool, error) { return chain.Head{}, false, nil }

func (e endFile) Save(h chain.Head) error {
	_, err := e.f.WriteAt(h.Encode(), 0)
	return err
}
