package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	collectpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// queue sends ended spans in batches, and counts the result of each span. The number
// of unsent spans is bounded, including the batch on its way to a slow collector.
// Ending a span never blocks, and wakes the goroutine that sends only once a batch is
// full.
type queue struct {
	to otlptrace.Client
	// resource and scope are what all spans are of, encoded.
	resource, scope []byte
	schema          string
	settings
	count func(Result, int)
	log   *slog.Logger

	mu      sync.Mutex
	waiting encoded
	sending int           // spans of the batch on its way
	full    chan struct{} // has an element once a batch waits

	// Only run uses these.
	text    []byte // of the batch on its way
	failing bool
}

// encoded is spans, one after the other.
type encoded struct {
	spans []byte
	ends  []int // of each span
}

func newQueue(to otlptrace.Client, about *resource.Resource, s settings, c Config) *queue {
	q := &queue{
		to: to, settings: s, count: c.Count, log: c.Logger, full: make(chan struct{}, 1),
		schema: about.SchemaURL(),
		scope:  appendText(appendText(nil, scopeName, scope), scopeVersion, c.Version),
	}
	for _, a := range about.Attributes() {
		q.resource = appendAttribute(q.resource, resourceAttributes, a, -1)
	}
	return q
}

// add is for trace.New.
func (q *queue) add(s *trace.Ended) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting.ends)+q.sending == q.most {
		q.count(Dropped, 1)
		return
	}
	q.waiting.spans = appendSpan(q.waiting.spans, s, q.limits)
	q.waiting.ends = append(q.waiting.ends, len(q.waiting.spans))
	if len(q.waiting.ends)%q.batch == 0 {
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
		for m, spans := q.take(least); spans > 0; m, spans = q.take(least) {
			q.send(sending, m, spans)
		}
		if ctx.Err() != nil && least == 1 {
			return
		}
	}
}

// take takes the next batch if so many spans wait: a message, and the number of its
// spans.
func (q *queue) take(least int) (*tracepb.ResourceSpans, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = 0
	w := &q.waiting
	if len(w.ends) < least {
		return nil, 0
	}
	q.sending = min(len(w.ends), q.batch)
	end := w.ends[q.sending-1]
	m := q.message(w.spans[:end])
	w.spans = append(w.spans[:0], w.spans[end:]...)
	w.ends = append(w.ends[:0], w.ends[q.sending:]...)
	for i := range w.ends {
		w.ends[i] -= end
	}
	return m, q.sending
}

// message returns a message with encoded spans. The client encodes fields that its type
// does not know as they are.
func (q *queue) message(spans []byte) *tracepb.ResourceSpans {
	text := appendBytes(q.text[:0], resourceSpansResource, q.resource)
	text, begin := open(text, resourceSpansScope)
	text = finish(append(appendBytes(text, scopeSpansScope, q.scope), spans...), begin)
	text = appendText(text, resourceSpansSchema, q.schema)
	q.text = text
	var m tracepb.ResourceSpans
	m.ProtoReflect().SetUnknown(text)
	return &m
}

// send logs once that the collector does not answer, and once that it answers again.
func (q *queue) send(ctx context.Context, m *tracepb.ResourceSpans, spans int) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	var part rejection
	err := q.to.UploadTraces(context.WithValue(ctx, rejectionKey{}, &part), []*tracepb.ResourceSpans{m})
	rejected := int(min(max(part.spans, 0), int64(spans)))
	switch {
	case err != nil:
		rejected = spans
	case rejected > 0:
		err = fmt.Errorf("the collector rejects %d of %d spans: %s", rejected, spans, part.why)
	}
	if rejected < spans {
		q.count(Sent, spans-rejected)
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
