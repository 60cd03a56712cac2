package audit

import (
	"bytes"
	"context"
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
		case x := <-l.queue:
			w.put(ctx, w.gather(ctx, x))
		case <-ctx.Done():
			w.drain(ctx)
			return
		}
	}
}

// gatherTime is how long a line waits for others, so that starting pods do not cost a
// write for each line; gatherBytes is how many bytes of lines are written at once.
const (
	gatherTime  = 50 * time.Millisecond
	gatherBytes = 64 << 10
)

// gather returns a line of the queue together with those that follow it soon.
func (w *writer) gather(ctx context.Context, first *line) []*line {
	select {
	case <-time.After(gatherTime):
	case <-ctx.Done():
	}
	lines := []*line{first}
	for size := first.size(); size < gatherBytes; {
		select {
		case x := <-w.queue:
			lines = append(lines, x)
			size += x.size()
		default:
			return lines
		}
	}
	return lines
}

// drain writes the lines in the queue at the stop, and logs how many were lost
// since the last line.
func (w *writer) drain(ctx context.Context) {
	w.endSummaries(time.Now())
	for {
		select {
		case x := <-w.queue:
			w.put(ctx, w.gather(ctx, x))
			continue
		default:
		}
		break
	}
	w.mu.Lock()
	lost := w.lost
	w.mu.Unlock()
	if lost+w.dropped > 0 {
		x := newLine(w.c.Node, time.Now())
		x.Lost = lost
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
