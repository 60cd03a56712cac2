package audit

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// writer is the state of the goroutine that writes.
type writer struct {
	*Log
	failing bool
	dropped int          // lines lost since the last line was written
	encoded bytes.Buffer // the last lines
}

func (l *Log) write(ctx context.Context) {
	w := &writer{Log: l}
	defer l.out.Close()
	tick := time.NewTicker(summaryTime / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.endSummaries(time.Now().Add(-summaryTime))
		case <-l.ready:
			w.putAll(ctx)
		case <-ctx.Done():
			w.drain(ctx)
			return
		}
	}
}

// gatherTime is how long a line waits for others, so that starting pods do not cost a
// write for each line; gatherBytes is how many bytes of lines are written at once.
const (
	gatherTime  = 250 * time.Millisecond
	gatherBytes = 64 << 10
)

// putAll writes the lines in the queue.
func (w *writer) putAll(ctx context.Context) {
	for lines := w.take(); len(lines) > 0; lines = w.take() {
		w.put(ctx, lines)
	}
}

// take returns the first lines of the queue.
func (l *Log) take() []*line {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for size := 0; n < len(l.queue) && size < gatherBytes; n++ {
		size += l.queue[n].size()
	}
	lines := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	return lines
}

// drain writes the lines in the queue at the stop, and logs how many were lost
// since the last line.
func (w *writer) drain(ctx context.Context) {
	w.endSummaries(time.Now())
	w.putAll(ctx)
	x := w.begin(time.Now())
	w.mu.Lock()
	x.Lost = w.lost
	w.mu.Unlock()
	if x.Lost+w.dropped > 0 {
		w.unwritten.Add(1)
		w.put(ctx, []*line{x})
	}
}

// put writes lines, and tries again until it succeeds, while other lines wait in the
// queue. After the end of ctx it tries once.
func (w *writer) put(ctx context.Context, lines []*line) {
	lines[0].Lost += w.dropped
	w.dropped = 0
	texts := w.encode(lines)
	defer w.endAll(lines)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		n, err := w.out.Write(texts...)
		for range n {
			w.c.Meter.AuditWritten()
		}
		w.c.Meter.AuditChain(w.out.Seq())
		w.unwritten.Add(-int64(n))
		lines, texts = lines[n:], texts[n:]
		w.note(err)
		switch {
		case err == nil:
			return
		case ctx.Err() != nil:
			for _, x := range lines {
				w.dropped += x.Lost + 1
				w.c.Meter.AuditLost()
			}
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (w *writer) endAll(lines []*line) {
	for _, x := range lines {
		w.end(x)
	}
}

// encode returns the text of each line, with its end; valid until the next call.
func (w *writer) encode(lines []*line) [][]byte {
	w.encoded.Reset()
	texts := make([][]byte, len(lines))
	for i, x := range lines {
		begin := w.encoded.Len()
		x.encode(&w.encoded)
		texts[i] = w.encoded.Bytes()[begin:] // stays as it is if the buffer grows
	}
	return texts
}

// note logs the first of several failures, and the success after them.
func (w *writer) note(err error) {
	if err != nil {
		w.c.Meter.AuditFailed()
	}
	switch {
	case err != nil && !w.failing:
		w.c.Logger.Error("writing the audit log fails; lines wait, and are lost once too many do", logkey.Path, w.c.Path, logkey.Error, err)
	case err == nil && w.failing:
		w.c.Logger.Info("writing the audit log works again", logkey.Path, w.c.Path)
	}
	w.failing = err != nil
}
