package export

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
	waiting []trace.Ended
	sending int           // spans of the batch on its way
	full    chan struct{} // has an element once a batch waits

	// Only run uses these.
	batched []trace.Ended // the batch on its way
	text    []byte        // of it
	failing bool
}

func newQueue(to otlptrace.Client, about *resource.Resource, s settings, c Config) *queue {
	q := &queue{
		to: to, settings: s, count: c.Count, log: c.Logger, full: make(chan struct{}, 1),
		schema: about.SchemaURL(),
		scope:  appendText(appendText(nil, scopeName, scope), scopeVersion, c.Version),
	}
	for _, a := range about.Attributes() {
		q.resource = appendAttribute(q.resource, resourceAttributes, string(a.Key), func(b []byte) []byte { return appendText(b, valueString, a.Value.String()) })
	}
	return q
}

// add is for trace.New. run encodes the span, a batch at a time: at the end of each
// span that took several times as long, as little of it was in the processor's caches.
func (q *queue) add(s trace.Ended) {
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
			q.send(sending, q.message(spans), len(spans))
		}
		if ctx.Err() != nil && least == 1 {
			return
		}
	}
}

// take takes the next batch if so many spans wait.
func (q *queue) take(least int) []trace.Ended {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sending = 0
	if len(q.waiting) < least {
		return nil
	}
	q.sending = min(len(q.waiting), q.batch)
	q.batched = append(q.batched[:0], q.waiting[:q.sending]...)
	q.waiting = slices.Delete(q.waiting, 0, q.sending)
	return q.batched
}

// message returns a message with spans. The client encodes fields that its type does
// not know as they are.
func (q *queue) message(spans []trace.Ended) *tracepb.ResourceSpans {
	text := appendBytes(q.text[:0], resourceSpansResource, q.resource)
	text, begin := open(text, resourceSpansScope)
	text = appendBytes(text, scopeSpansScope, q.scope)
	e := encoder{text: text, limits: q.limits}
	for i := range spans {
		e.span(&spans[i])
	}
	clear(spans) // what they were of is kept no longer
	text = appendText(finish(e.text, begin), resourceSpansSchema, q.schema)
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
