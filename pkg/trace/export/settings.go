package export

import (
	"cmp"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/propagation"
)

// defaultQueue is that of the specification.
const defaultQueue = 2048

// settings are of the variables that the SDK does not read, or does not tell.
type settings struct {
	off        bool
	propagator propagation.TextMapPropagator
	queue      int
}

func settingsOf(c Config) settings {
	get := func(name string) string { return strings.ToLower(strings.TrimSpace(c.Getenv(name))) }
	ignore := func(name, value string) { c.Logger.Warn(ignored, "setting", name, "value", value) }
	s := settings{off: get("OTEL_SDK_DISABLED") == "true", queue: defaultQueue}
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
	s.propagator = propagation.NewCompositeTextMapPropagator(use...)
	if n, err := strconv.Atoi(get("OTEL_BSP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		s.queue = n
	}
	return s
}
