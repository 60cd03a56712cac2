package audit

import (
	"context"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// writer is the state of the goroutine that writes.
type writer struct {
	*Log
	failing bool
	dropped int // lines lost since the last line was written
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
			w.put(ctx, x)
		case <-ctx.Done():
			w.drain(ctx)
			return
		}
	}
}

// drain writes the lines in the queue at the stop, and logs how many were lost
// since the last line.
func (w *writer) drain(ctx context.Context) {
	w.endSummaries(time.Now())
	for {
		select {
		case x := <-w.queue:
			w.put(ctx, x)
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
		w.put(ctx, x)
	}
}

// put writes a line, and tries again until it succeeds, while other lines wait in
// the queue. After the end of ctx it tries once.
func (w *writer) put(ctx context.Context, x *line) {
	x.lose(w.dropped)
	w.dropped = 0
	text := x.encoded()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := w.out.Write(text)
		w.note(err)
		switch {
		case err == nil:
			w.c.Meter.AuditWritten()
			w.c.Meter.AuditChain(w.out.Seq())
			return
		case ctx.Err() != nil:
			w.dropped = x.Lost + 1
			w.c.Meter.AuditLost()
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
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
