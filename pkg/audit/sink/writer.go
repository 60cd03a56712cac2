package sink

import (
	"io"
	"log/slog"
	"sort"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// Memory saves the head for the next process. Only one process may use it at a
// time.
type Memory interface {
	// Load returns the head that was saved last. A missing one is no error.
	Load() (h chain.Head, ok bool, err error)
	Save(h chain.Head) error
}

// Writer adds links to lines and writes them. Only one goroutine may use it.
type Writer struct {
	out    Sink
	memory Memory
	log    *slog.Logger
	begun  bool
	head   chain.Head
	warned bool
	text   []byte // of the last lines, with their links
	ends   []int  // where each of them ends in text
}

// OpenChain opens the file, or uses stdout for the path "-". With the first line,
// the chain continues from memory, which may be nil, or begins after the last line
// of the file.
func OpenChain(path string, stdout io.Writer, memory Memory, log *slog.Logger) (*Writer, error) {
	out, err := Open(path, stdout)
	if err != nil {
		return nil, err
	}
	return &Writer{out: out, memory: memory, log: log}, nil
}

// begin finds the head for the first line.
func (w *Writer) begin() error {
	last, err := w.out.Last()
	if err != nil {
		return err
	}
	w.begun = true
	if w.memory != nil {
		h, ok, err := w.memory.Load()
		if err != nil {
			w.log.Warn("the audit trail begins a new chain of lines, because the end of the previous one cannot be read", logkey.Error, err)
		}
		if h = h.After(last); ok && h.Seq > 0 {
			w.head = h
			return nil
		}
	}
	w.head = chain.Begin(last)
	return nil
}

// Write writes lines, each a JSON object with its end, and adds their links. It
// returns how many are written, which are all without an error. After an error the
// caller may write the others again, or other ones.
func (w *Writer) Write(lines ...[]byte) (int, error) {
	if !w.begun {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	all := w.add(lines)
	last := all
	last.Before, last.BeforeSeq = w.head.Hash, w.head.Seq
	w.save(last) // before the write: what a kill then leaves out shows as a gap
	bytes, err := w.out.Write(w.text)
	// A line whose end is missing is written: the end comes with the next line.
	n := sort.Search(len(w.ends), func(i int) bool { return w.ends[i]-1 > bytes })
	if n == len(lines) {
		w.head = all
		return n, nil
	}
	w.head = w.add(lines[:n])
	w.save(w.head)
	return n, err
}

// add makes the text of lines, with their links, and returns the head after them.
func (w *Writer) add(lines [][]byte) chain.Head {
	h := w.head
	w.text, w.ends = w.text[:0], w.ends[:0]
	for _, line := range lines {
		w.text, h = h.Add(w.text, line)
		w.ends = append(w.ends, len(w.text))
	}
	return h
}

func (w *Writer) save(h chain.Head) {
	if w.memory == nil {
		return
	}
	if err := w.memory.Save(h); err != nil && !w.warned {
		w.warned = true
		w.log.Warn("saving the end of the audit trail's chain of lines failed, so a restart begins a new chain", logkey.Error, err)
	}
}

// Seq returns the number of the last written line; 0 for none.
func (w *Writer) Seq() uint64 { return w.head.Seq }

// Close closes the file.
func (w *Writer) Close() { w.out.Close() }
