// Package audit writes the audit trail: which pod got which secrets, in one JSON
// line for each access.
//
// It receives outcomes and returns at once: lines wait in a bounded queue for the
// goroutine that writes them. A line that does not fit is lost, and the next line
// has the number of lost lines.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-csi/mayfly/pkg/audit/sink"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Level says which accesses get a line.
type Level string

// The levels.
const (
	// Changes leaves out refreshes that found nothing new, and failures that
	// only repeat the last one.
	Changes Level = "changes"
	All     Level = "all"
)

// Meter counts lines. It must not block.
type Meter interface {
	// AuditWritten counts a written line, AuditLost a lost one.
	AuditWritten()
	AuditLost()
	// AuditFailed counts a failed attempt to write a line, which is repeated.
	AuditFailed()
	// AuditChain receives the number of the last line in its chain.
	AuditChain(seq uint64)
}

// Config has the settings of a Log.
type Config struct {
	// Path is the file; "-" stands for Stdout.
	Path   string
	Stdout io.Writer
	Level  Level
	// Node is the name of this node.
	Node string
	// Memory saves the end of the chain of lines for the next process; nil for
	// none.
	Memory sink.Memory
	Meter  Meter
	Logger *slog.Logger
}

const (
	// waiting bounds the lines in the queue. A node has some hundred volumes, so
	// this is enough for many restarts.
	waiting = 4096
	// flushTime bounds how long a stop waits for the lines in the queue.
	flushTime = 5 * time.Second
	// firstPause is the pause after a failed write; it doubles, up to
	// longestPause.
	firstPause   = 250 * time.Millisecond
	longestPause = 15 * time.Second
)

// Log implements volume.Observer.
type Log struct {
	c   Config
	out *sink.Writer
	// ready has an element some time after the queue got its first line.
	ready chan struct{}
	spare sync.Pool // of lines
	// unwritten counts the lines in the queue and those on their way to the file.
	unwritten atomic.Int64

	mu    sync.Mutex
	queue []*line
	lost  int // lines that were lost since the last one found room
	// summaries has, by volume, the refreshes without a line of their own.
	summaries map[string]*line
	budgets   map[string]*rate.Limiter // by namespace
}

// New opens the file, so that an unusable path fails the start. It starts nothing.
func New(c Config) (*Log, error) {
	if c.Meter == nil || c.Logger == nil || (c.Path == "-" && c.Stdout == nil) {
		return nil, errors.New("audit: Meter, Logger and, for -, Stdout must be set")
	}
	if c.Level != Changes && c.Level != All {
		return nil, fmt.Errorf("audit level %q: must be %s or %s", c.Level, Changes, All)
	}
	out, err := sink.OpenChain(c.Path, c.Stdout, c.Memory, c.Logger)
	if err != nil {
		return nil, err
	}
	return &Log{c: c, out: out, ready: make(chan struct{}, 1), summaries: map[string]*line{}, budgets: map[string]*rate.Limiter{}}, nil
}

// Observe implements volume.Observer.
func (l *Log) Observe(o volume.Outcome) {
	if !l.wanted(&o) {
		return
	}
	x := l.begin(time.Now())
	x.fill(&o)
	var accesses []*line
	if l.c.Level == All {
		accesses = make([]*line, len(o.Accesses))
		for i, a := range o.Accesses {
			accesses[i] = l.begin(a.At)
			accesses[i].fillAccess(&o, a)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, access := range accesses {
		l.admitAccess(access)
	}
	l.admit(x, &o)
}

// begin returns a line about lost lines.
func (l *Log) begin(at time.Time) *line {
	x, ok := l.spare.Get().(*line)
	if !ok {
		x = &line{}
	}
	x.begin(l.c.Node, at)
	return x
}

// end takes back a line that nobody has any more.
func (l *Log) end(x *line) {
	x.empty()
	l.spare.Put(x)
}

// enqueue adds a line to the queue. The caller holds the mutex.
func (l *Log) enqueue(x *line) {
	if len(l.queue) == waiting {
		l.lost++
		l.c.Meter.AuditLost()
		l.end(x)
		return
	}
	if len(l.queue) == 0 {
		time.AfterFunc(gatherTime, l.wake)
	}
	x.Lost += l.lost
	l.lost = 0
	l.queue = append(l.queue, x)
	l.unwritten.Add(1)
}

// wake makes the goroutine that writes look at the queue.
func (l *Log) wake() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

func (l *Log) wanted(o *volume.Outcome) bool {
	switch {
	case o.Kind == volume.Waiting:
		return false // its outcome follows
	case o.Kind == volume.Released && o.Provider == "" && o.Err == nil:
		return false // the publish ended before a store was asked
	case l.c.Level == All || o.Kind != volume.Refreshed && o.Kind != volume.ReleaseFailed || o.Changed:
		return true
	case o.Err != nil:
		return !o.Repeated
	}
	return o.Failures > 0 // the end of an episode
}

// Run writes lines until ctx ends, and then the lines in the queue. It stops
// earlier if the file or the reader of the stream accepts no more.
func (l *Log) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.write(ctx)
	}()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(flushTime):
		l.c.Logger.Error("the audit log takes no more lines; those that wait are lost", logkey.Path, l.c.Path, logkey.Lines, l.unwritten.Load())
	}
	return nil
}
