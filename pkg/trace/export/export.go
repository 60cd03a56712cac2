// Package export sends the spans of package trace to a collector, by OTLP over
// gRPC. The OTEL_ variables of OpenTelemetry's specification configure it.
package export

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// scope is the name of the instrumentation in the spans.
const scope = "github.com/mayfly-csi/mayfly"

// shutdownTime bounds the time for sending the last spans.
const shutdownTime = 2 * time.Second

// answerBytes is the size of the buffer that answers are read with. They have some bytes.
const answerBytes = 2 << 10

// Config has the settings of an Exporter. All fields are required.
type Config struct {
	// Version is the driver's; Node is the name of its node.
	Version, Node string
	Logger        *slog.Logger
	// Getenv reads the variables that the SDK does not use. The SDK reads its own
	// from the process.
	Getenv func(string) string
	// Count receives the number of spans for each result.
	Count func(r Result, spans int)
}

// Result is the result of exporting a span.
type Result string

// The results.
const (
	Sent Result = "sent"
	// Failed is the result for spans that the collector did not accept.
	Failed Result = "failed"
	// Dropped is the result for spans for which the queue had no room.
	Dropped Result = "dropped"
)

// Results returns all of them.
func Results() []Result { return []Result{Sent, Failed, Dropped} }

// Exporter sends spans in the background.
type Exporter struct {
	tracer *trace.Tracer
	queue  *queue // nil for none
}

// New makes an Exporter. It does not wait for a collector. It logs and ignores a
// variable that cannot be used, as the specification asks, and also an exporter, a
// protocol or a propagator that this package does not have.
func New(ctx context.Context, c Config) (*Exporter, error) {
	useLogger(c.Logger)
	s := settingsOf(c)
	if s.off {
		return &Exporter{}, nil
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "mayfly-node"), attribute.String("service.version", c.Version), attribute.String("k8s.node.name", c.Node)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		c.Logger.Warn(ignored, logkey.Setting, "OTEL_RESOURCE_ATTRIBUTES", logkey.Error, err)
	}
	to := otlptracegrpc.NewClient(otlptracegrpc.WithDialOption(grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec())),
		grpc.WithReadBufferSize(answerBytes), grpc.WithChainUnaryInterceptor(noteRejection)))
	if err := to.Start(ctx); err != nil {
		return nil, fmt.Errorf("preparing to send traces: %w", err)
	}
	q := newQueue(to, about, s, c)
	return &Exporter{trace.New(s.sampler, s.propagator, q.add), q}, nil
}

// Tracer returns nil if the environment switches traces off.
func (e *Exporter) Tracer() *trace.Tracer { return e.tracer }

// Run sends spans until ctx ends, and then the remaining ones.
func (e *Exporter) Run(ctx context.Context) error {
	if e.queue == nil {
		<-ctx.Done()
		return nil
	}
	e.queue.run(ctx)
	return e.queue.to.Stop(context.WithoutCancel(ctx)) // nothing is on its way
}

// ignored is the log line for a setting without effect.
const ignored = "a setting of OpenTelemetry cannot be used and is ignored"

// useLogger makes the SDK log with the driver's logger: it reports a bad variable
// only through a logger of the process. Its messages quote the variables' text, and
// a header may be a credential, so only the subject is logged.
func useLogger(log *slog.Logger) {
	otel.SetLogger(logr.New(sink{log}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", logkey.Error, printable.Text(err.Error(), maxWords)) }))
}

type sink struct{ log *slog.Logger }

// Init implements logr.LogSink.
func (sink) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink.
func (sink) Enabled(int) bool { return true }

// Info implements logr.LogSink. The SDK reports variables that are no numbers here,
// with their names and values.
func (s sink) Info(_ int, about string, of ...any) {
	if len(of) == 0 || !strings.HasPrefix(about, "Got invalid value") {
		return
	}
	if name, ok := of[0].(string); ok {
		s.log.Warn(ignored, logkey.Setting, name, logkey.Failed, about)
	}
}

// Error implements logr.LogSink.
func (s sink) Error(_ error, about string, _ ...any) {
	s.log.Warn(ignored, logkey.Setting, "OTEL_EXPORTER_OTLP_*", logkey.Failed, about)
}

// WithValues implements logr.LogSink.
func (s sink) WithValues(...any) logr.LogSink { return s }

// WithName implements logr.LogSink.
func (s sink) WithName(string) logr.LogSink { return s }
