// Package export sends the spans of package trace to a collector, by OTLP over
// gRPC, as the OTEL_ variables of OpenTelemetry's specification say.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// shutdownTime is how long the last spans may take to be sent.
const shutdownTime = 2 * time.Second

// Config is what an Exporter is made of. Every field is needed.
type Config struct {
	// Version is the driver's, Node the name of its node.
	Version, Node string
	Logger        *slog.Logger
	// Getenv reads the variables that the SDK does not use; the SDK reads its own
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
	// Failed is of spans that the collector did not take.
	Failed Result = "failed"
	// Dropped is of spans for which there was no room.
	Dropped Result = "dropped"
)

// Results are all of them.
func Results() []Result { return []Result{Sent, Failed, Dropped} }

// Exporter sends spans in the background.
type Exporter struct {
	tracer   *trace.Tracer
	provider *sdk.TracerProvider
	queue    *queue
}

// New makes an Exporter. It waits for no collector. A variable that cannot be used
// is logged and ignored, as the specification asks; so is what it says of an
// exporter, a protocol or a propagator that is not here.
func New(ctx context.Context, c Config) (*Exporter, error) {
	s := settingsOf(c)
	if s.off {
		return &Exporter{}, nil
	}
	useLogger(c.Logger)
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "mayfly-node"), attribute.String("service.version", c.Version), attribute.String("k8s.node.name", c.Node)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		c.Logger.Warn(ignored, logkey.Setting, "OTEL_RESOURCE_ATTRIBUTES", logkey.Error, err)
	}
	// Of gRPC's pool, a batch of spans would take a buffer of 1 MB, and lose it at the next
	// garbage collection.
	to, err := otlptracegrpc.New(ctx, otlptracegrpc.WithDialOption(experimental.WithBufferPool(mem.NopBufferPool{})))
	if err != nil {
		return nil, fmt.Errorf("preparing to send traces: %w", err)
	}
	q := newQueue(to, s, c)
	e := &Exporter{queue: q}
	e.provider = sdk.NewTracerProvider(sdk.WithResource(about), sdk.WithSpanProcessor(q))
	e.tracer = trace.New(e.provider, s.propagator, c.Version)
	return e, nil
}

// Tracer is nil where the environment switches traces off.
func (e *Exporter) Tracer() *trace.Tracer { return e.tracer }

// Run sends spans until ctx ends, and then those that are left.
func (e *Exporter) Run(ctx context.Context) error {
	<-ctx.Done()
	if e.provider == nil {
		return nil
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := e.provider.Shutdown(last)
	e.queue.stop() // a collector that hangs holds nothing up
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		e.queue.log.Debug("ending the sending of traces", logkey.Error, err)
	}
	return nil
}

// ignored is what the log says of a setting that has no effect.
const ignored = "a setting of OpenTelemetry cannot be used and is ignored"

// useLogger has the SDK, whose way to tell of a bad variable is the process's,
// log as the driver does. It would quote the variables' text, and a header may be
// a credential: only what it was about is logged.
func useLogger(log *slog.Logger) {
	otel.SetLogger(logr.New(sink{log}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", logkey.Error, err) }))
}

type sink struct{ log *slog.Logger }

// Init implements logr.LogSink.
func (sink) Init(logr.RuntimeInfo) {}

// Enabled implements logr.LogSink: of what is no error nothing is wanted.
func (sink) Enabled(int) bool { return false }

// Info implements logr.LogSink.
func (sink) Info(int, string, ...any) {}

// Error implements logr.LogSink.
func (s sink) Error(_ error, about string, _ ...any) {
	s.log.Warn(ignored, logkey.Setting, "OTEL_EXPORTER_OTLP_*", logkey.Failed, about)
}

// WithValues implements logr.LogSink.
func (s sink) WithValues(...any) logr.LogSink { return s }

// WithName implements logr.LogSink.
func (s sink) WithName(string) logr.LogSink { return s }
