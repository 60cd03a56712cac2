package export

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	collectpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// queue implements sdk.SpanProcessor: it sends ended spans in batches, and counts
// the result of each span. The number of unsent spans is bounded, including the batch
// on its way to a slow collector. Ending a span never blocks, and wakes the goroutine
// that sends only once a batch is full: that of the SDK's batch processor wakes for
// every span.
type queue struct {
	to sdk.SpanExporter
	settings
	count func(Result, int)
	log   *slog.Logger

	mu      sync.Mutex
	waiting []sdk.ReadOnlySpan
	sending int           // spans of the batch on its way
	full    chan struct{} // has an element once a batch waits
	failing bool          // used by run only
}

func newQueue(to sdk.SpanExporter, s settings, c Config) *queue {
	return &queue{to: to, settings: s, count: c.Count, log: c.Logger, full: make(chan struct{}, 1)}
}

// OnStart implements sdk.SpanProcessor.
func (*queue) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements sdk.SpanProcessor.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting)+q.sending == q.most {
		q.count(Dropped, 1)
		return
	}
	q.waiting = append(q.waiting, s)
	if len(q.waiting)%q.batch == 0 {
		select {
		case q.full <- struct{}{}:
		default: // run has not seen the last one yet, and sends all full batches
		}
	}
}

// run sends a batch when it is full, and what waits after each delay, until ctx ends.
// Then it sends the rest, within shutdownTime together with the batch on its way.
func (q *queue) run(ctx context.Context) {
	sending, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(shutdownTime, giveUp) })()
	tick := time.NewTicker(q.delay)
	defer tick.Stop()
	for {
		least := 1
		select {
		case <-q.full:
			least = q.batch
		case <-tick.C:
		case <-ctx.Done():
		}
		for spans := q.take(least); len(spans) > 0; spans = q.take(least) {
			q.send(sending, spans)
		}
		if ctx.Err() != nil && least == 1 {
			return
		}
	}
}

// take takes the next batch if so many spans wait.
func (q *queue) take(least int) []sdk.ReadOnlySpan {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = 0
	if len(q.waiting) < least {
		return nil
	}
	q.sending = min(len(q.waiting), q.batch)
	spans := slices.Clone(q.waiting[:q.sending])
	q.waiting = slices.Delete(q.waiting, 0, q.sending)
	return spans
}

// send logs once that the collector does not answer, and once that it answers again.
func (q *queue) send(ctx context.Context, spans []sdk.ReadOnlySpan) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	var part rejection
	err := q.to.ExportSpans(context.WithValue(ctx, rejectionKey{}, &part), spans)
	rejected := int(min(max(part.spans, 0), int64(len(spans))))
	switch {
	case err != nil:
		rejected = len(spans)
	case rejected > 0:
		err = fmt.Errorf("the collector rejects %d of %d spans: %s", rejected, len(spans), part.why)
	}
	if rejected < len(spans) {
		q.count(Sent, len(spans)-rejected)
	}
	if rejected > 0 {
		q.count(Failed, rejected)
	}
	switch {
	case err != nil && !q.failing:
		q.log.Warn("traces cannot be sent, and are dropped until they can", logkey.Error, printable.Text(err.Error(), maxWords))
	case err == nil && q.failing:
		q.log.Info("traces are sent again")
	}
	q.failing = err != nil
}

// Shutdown implements sdk.SpanProcessor: run ends with its context.
func (*queue) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdk.SpanProcessor. The driver does not call it.
func (*queue) ForceFlush(context.Context) error { return nil }

// maxWords bounds the collector's text in the log, in bytes.
const maxWords = 1000

// rejection is what an answer says of spans that the collector does not keep.
type rejection struct {
	spans int64
	why   string
}

type rejectionKey struct{}

// noteRejection is a grpc.UnaryClientInterceptor that gives the rejection to send.
// The exporter would make an error of it, also where the collector keeps all spans and
// only says something, and not tell how many it keeps.
func noteRejection(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if err := invoke(ctx, method, request, reply, conn, options...); err != nil {
		return err
	}
	answer, ok := reply.(*collectpb.ExportTraceServiceResponse)
	part, asked := ctx.Value(rejectionKey{}).(*rejection)
	if ok && asked && answer.GetPartialSuccess() != nil {
		*part = rejection{answer.GetPartialSuccess().GetRejectedSpans(), answer.GetPartialSuccess().GetErrorMessage()}
		answer.PartialSuccess = nil
	}
	return nil
}
