package export

import (
	"cmp"
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// bsp begins the names of the batch processor's variables.
const bsp = "OTEL_BSP_"

// settings has the variables that the SDK does not read, or does not show.
type settings struct {
	off        bool
	sampler    trace.Sampler
	propagator propagation.TextMapPropagator
	most       int // spans in the queue
	batch      int // spans in a request
	// delay is how long a span waits at most, timeout how long a request takes.
	delay, timeout time.Duration
	limits         sdk.SpanLimits
}

func settingsOf(c Config) settings {
	get := func(name string) string { return strings.ToLower(strings.TrimSpace(c.Getenv(name))) }
	ignore := func(name, value string) { c.Logger.Warn(ignored, logkey.Setting, name, logkey.Value, value) }
	s := settings{most: sdk.DefaultMaxQueueSize, batch: sdk.DefaultMaxExportBatchSize, limits: sdk.NewSpanLimits()}
	delay, timeout := sdk.DefaultScheduleDelay, sdk.DefaultExportTimeout // ms
	switch off := get("OTEL_SDK_DISABLED"); off {
	case "", "false":
	case "true":
		s.off = true
	default:
		ignore("OTEL_SDK_DISABLED", off)
	}
	switch exporter := get("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp":
	case "none":
		s.off = true
	default:
		ignore("OTEL_TRACES_EXPORTER", exporter)
	}
	if protocol := cmp.Or(get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), get("OTEL_EXPORTER_OTLP_PROTOCOL"), "grpc"); protocol != "grpc" {
		ignore("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
	}
	s.propagator = propagatorOf(get, ignore)
	sampler := samplerOf(get, ignore)
	s.sampler = func(ctx context.Context, id oteltrace.TraceID, name string) (bool, oteltrace.TraceState) {
		r := sampler.ShouldSample(sdk.SamplingParameters{ParentContext: ctx, TraceID: id, Name: name, Kind: oteltrace.SpanKindInternal})
		return r.Decision == sdk.RecordAndSample, r.Tracestate
	}
	for name, to := range map[string]*int{
		bsp + "MAX_QUEUE_SIZE": &s.most, bsp + "MAX_EXPORT_BATCH_SIZE": &s.batch, bsp + "SCHEDULE_DELAY": &delay, bsp + "EXPORT_TIMEOUT": &timeout,
	} {
		text := get(name)
		if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= math.MaxInt32 {
			*to = n
		} else if text != "" {
			ignore(name, text)
		}
	}
	s.batch = min(s.batch, s.most)
	s.delay, s.timeout = time.Duration(delay)*time.Millisecond, time.Duration(timeout)*time.Millisecond
	return s
}

func propagatorOf(get func(name string) string, ignore func(name, value string)) propagation.TextMapPropagator {
	var use []propagation.TextMapPropagator
	for name := range strings.SplitSeq(cmp.Or(get("OTEL_PROPAGATORS"), "tracecontext,baggage"), ",") {
		switch name = strings.TrimSpace(name); name {
		case "tracecontext":
			use = append(use, propagation.TraceContext{})
		case "baggage":
			use = append(use, propagation.Baggage{})
		case "none":
		default:
			ignore("OTEL_PROPAGATORS", name)
		}
	}
	return propagation.NewCompositeTextMapPropagator(use...)
}

// samplerOf returns the sampler of OTEL_TRACES_SAMPLER, which by default records what
// the caller records, and all that has no caller.
func samplerOf(get func(name string) string, ignore func(name, value string)) sdk.Sampler {
	const variable, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	name, byCaller := strings.CutPrefix(get(variable), "parentbased_")
	var s sdk.Sampler
	switch name {
	case "always_on":
		s = sdk.AlwaysSample()
	case "always_off":
		s = sdk.NeverSample()
	case "traceidratio":
		text := cmp.Or(get(argument), "1")
		ratio, err := strconv.ParseFloat(text, 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) {
			ignore(argument, text)
			ratio = 1
		}
		s = sdk.TraceIDRatioBased(ratio)
	default:
		if get(variable) != "" {
			ignore(variable, get(variable))
		}
		s, byCaller = sdk.AlwaysSample(), true
	}
	if byCaller {
		return sdk.ParentBased(s)
	}
	return s
}
