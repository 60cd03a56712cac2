package export

import (
	"context"
	"log/slog"
	"sync/atomic"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// queue is the SDK's batch processor with a bound and counters: the number of
// unsent spans is bounded, including the batch on its way to a slow collector, and
// the result of each span is counted. Ending a span never blocks.
type queue struct {
	sdk.SpanProcessor
	to    sdk.SpanExporter
	most  int64
	count func(Result, int)
	log   *slog.Logger

	waiting atomic.Int64
	failing atomic.Bool
	stopped context.Context //nolint:containedctx // ends the current export, which nothing else ends
	stop    context.CancelFunc
}

func newQueue(to sdk.SpanExporter, s settings, c Config) *queue {
	q := &queue{to: to, most: int64(s.queue), count: c.Count, log: c.Logger}
	q.stopped, q.stop = context.WithCancel(context.Background())
	q.SpanProcessor = sdk.NewBatchSpanProcessor(sender{q}, sdk.WithMaxQueueSize(s.queue), sdk.WithMaxExportBatchSize(s.batch))
	return q
}

// OnEnd implements sdk.SpanProcessor.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.count(Dropped, 1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// sender is the end of the queue from which the batch processor exports.
type sender struct{ *queue }

// ExportSpans implements sdk.SpanExporter. It logs once that the collector does not
// answer, and once that it answers again.
func (s sender) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopped, cancel)()
	err := s.to.ExportSpans(ctx, spans)
	s.waiting.Add(-int64(len(spans)))
	if err != nil {
		s.count(Failed, len(spans))
		if !s.failing.Swap(true) {
			s.log.Warn("traces cannot be sent, and are dropped until they can", logkey.Error, err)
		}
		return nil
	}
	s.count(Sent, len(spans))
	if s.failing.Swap(false) {
		s.log.Info("traces are sent again")
	}
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (s sender) Shutdown(ctx context.Context) error { return s.to.Shutdown(ctx) }
