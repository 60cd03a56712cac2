package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	collectpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/printable"
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
	q.SpanProcessor = sdk.NewBatchSpanProcessor(sender{q}, sdk.WithMaxQueueSize(s.queue), sdk.WithMaxExportBatchSize(s.batch),
		sdk.WithBatchTimeout(time.Duration(s.delay)*time.Millisecond), sdk.WithExportTimeout(time.Duration(s.timeout)*time.Millisecond))
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
	var part rejection
	err := s.to.ExportSpans(context.WithValue(ctx, rejectionKey{}, &part), spans)
	s.waiting.Add(-int64(len(spans)))
	rejected := int(min(max(part.spans, 0), int64(len(spans))))
	switch {
	case err != nil:
		rejected = len(spans)
	case rejected > 0:
		err = fmt.Errorf("the collector rejects %d of %d spans: %s", rejected, len(spans), part.why)
	}
	if rejected < len(spans) {
		s.count(Sent, len(spans)-rejected)
	}
	if err == nil {
		if s.failing.Swap(false) {
			s.log.Info("traces are sent again")
		}
		return nil
	}
	s.count(Failed, rejected)
	if !s.failing.Swap(true) {
		s.log.Warn("traces cannot be sent, and are dropped until they can", logkey.Error, printable.Text(err.Error(), maxWords))
	}
	return nil
}

// maxWords bounds the collector's text in the log, in bytes.
const maxWords = 1000

// rejection is what an answer says of spans that the collector does not keep.
type rejection struct {
	spans int64
	why   string
}

type rejectionKey struct{}

// noteRejection is a grpc.UnaryClientInterceptor that gives the rejection to ExportSpans.
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

// Shutdown implements sdk.SpanExporter.
func (s sender) Shutdown(ctx context.Context) error { return s.to.Shutdown(ctx) }
