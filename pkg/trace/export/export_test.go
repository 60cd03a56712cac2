package export_test

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/trace/export"
	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

type rig struct {
	*export.Exporter
	log  *testkit.Log
	stop func()

	mu    sync.Mutex
	count map[export.Result]int
}

func start(t *testing.T, env map[string]string) *rig {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
	r := &rig{log: &testkit.Log{}, count: map[export.Result]int{}}
	var err error
	r.Exporter, err = export.New(t.Context(), export.Config{
		Version: "v1", Node: "n1", Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Getenv: func(name string) string { return env[name] },
		Count: func(of export.Result, n int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.count[of] += n
		},
	})
	testkit.Must(t, err)
	r.stop = testkit.Background(t, r.Run)
	return r
}

func (r *rig) counted(of export.Result) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[of]
}

func (r *rig) spans(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		_, span := r.Tracer().Begin(t.Context(), fmt.Sprint("work-", i), trace.Work{PodUID: "u1"})
		span.End(nil)
	}
}

func newCollector(t *testing.T, address string) *collector.Collector {
	t.Helper()
	c := testkit.Value(collector.Start(address))(t)
	t.Cleanup(c.Close)
	return c
}

func TestEnvironment(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		// off, or what the span's resource and the request have
		off   bool
		about map[string]string
		// logged is what the log must have.
		logged string
	}{
		{"nothing set", nil, false, map[string]string{"service.name": "mayfly-node", "service.version": "v1", "k8s.node.name": "n1"}, ""},
		{"names", map[string]string{"OTEL_SERVICE_NAME": "secrets", "OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=blue"}, false,
			map[string]string{"service.name": "secrets", "k8s.cluster.name": "blue", "k8s.node.name": "n1"}, ""},
		{"disabled", map[string]string{"OTEL_SDK_DISABLED": "TRUE"}, true, nil, ""},
		{"no exporter", map[string]string{"OTEL_TRACES_EXPORTER": "none"}, true, nil, ""},
		{"another exporter", map[string]string{"OTEL_TRACES_EXPORTER": "console"}, false, nil, "OTEL_TRACES_EXPORTER"},
		{"another protocol", map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, false, nil, "OTEL_EXPORTER_OTLP_PROTOCOL"},
		{"another propagator", map[string]string{"OTEL_PROPAGATORS": "tracecontext,b3"}, false, nil, "value=b3"},
		{"a bad header", map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "s3cr3t-marker"}, false, nil, "parse headers"},
		{"a bad queue", map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, false, nil, "OTEL_BSP_MAX_QUEUE_SIZE"},
		{"a bad switch", map[string]string{"OTEL_SDK_DISABLED": "1"}, false, nil, "OTEL_SDK_DISABLED"},
		{"no delay", map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "0"}, false, nil, "OTEL_BSP_SCHEDULE_DELAY"},
		{"a delay of ages", map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "9223372036854775807"}, false, nil, "OTEL_BSP_SCHEDULE_DELAY"},
		{"a delay with a unit", map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "5s"}, false, nil, "OTEL_BSP_SCHEDULE_DELAY"},
		{"a negative time", map[string]string{"OTEL_BSP_EXPORT_TIMEOUT": "-1"}, false, nil, "OTEL_BSP_EXPORT_TIMEOUT"},
		{"a bad limit", map[string]string{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"}, false, nil, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"},
		{"a bad time", map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "5s"}, false, nil, "parse duration"},
		{"a bad sampler", map[string]string{"OTEL_TRACES_SAMPLER": "rarely"}, false, nil, "setting=OTEL_TRACES_SAMPLER value=rarely"},
		{"a bad ratio", map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.1"}, false, nil, "setting=OTEL_TRACES_SAMPLER_ARG value=1.1"},
		{"the usual sampler", map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, false, nil, ""},
		{"no file", map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"}, false, nil, "cert"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCollector(t, "")
			env := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.Endpoint}
			maps.Copy(env, tc.env)
			r := start(t, env)
			if off := r.Tracer() == nil; off != tc.off {
				t.Fatalf("off: %v", off)
			}
			if !tc.off {
				r.spans(t, 1)
			}
			r.stop()
			if n := len(c.Spans()); n == 0 != tc.off {
				t.Fatalf("%d spans arrived", n)
			}
			for key, want := range tc.about {
				testkit.Equal(t, key, c.Spans()[0].About[key], want)
			}
			log := r.log.String()
			if !strings.Contains(log, tc.logged) || tc.logged == "" && log != "" || strings.Contains(log, "s3cr3t") {
				t.Errorf("the log is\n%s", log)
			}
		})
	}
}

func TestHeadersAndSampling(t *testing.T) {
	c := newCollector(t, "")
	r := start(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.Endpoint, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x"})
	r.spans(t, 3)
	r.stop()
	testkit.Equal(t, "authorization", c.Header("authorization"), []string{"Bearer x"})
	if r.counted(export.Sent) != 3 || len(c.Spans()) != 3 {
		t.Errorf("%v counted, %d arrived", r.count, len(c.Spans()))
	}

	for sampler, argument := range map[string]string{"always_off": "", "parentbased_always_off": "", "traceidratio": "0", "parentbased_traceidratio": "0.0"} {
		none := start(t, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.Endpoint, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})
		none.spans(t, 3)
		none.stop()
		if len(none.count) != 0 || len(c.Spans()) != 3 {
			t.Errorf("%s: %v counted, %d arrived", sampler, none.count, len(c.Spans()))
		}
	}
}

// TestCollectorAway: one line of the log says that it began, however many batches fail, and one
// that it is over. The exporter may give up on a request that the collector then takes, on a busy
// machine also after the collector is back: so what counts is what the exporter knows to be sent.
func TestCollectorAway(t *testing.T) {
	const away, back = "traces cannot be sent", "traces are sent again"
	address := testkit.FreeAddress(t)
	r := start(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + address, "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
		"OTEL_BSP_SCHEDULE_DELAY": "10",
	})
	for batch := range 3 {
		r.spans(t, 1)
		testkit.Eventually(t, "the failure is counted", func() bool { return r.counted(export.Failed) == batch+1 })
	}
	if r.log.Count(away) != 1 || r.log.Count(back) != 0 {
		t.Errorf("after three failures the log is\n%s", r.log)
	}
	c := newCollector(t, address)
	testkit.Eventually(t, "spans are sent again", func() bool {
		r.spans(t, 1)
		return r.counted(export.Sent) > 0
	})
	r.stop()
	if len(c.Spans()) == 0 {
		t.Error("the collector has none of the spans that were sent")
	}
	var lines []string
	for line := range strings.Lines(r.log.String()) {
		for _, what := range []string{away, back} {
			if strings.Contains(line, what) {
				lines = append(lines, what)
			}
		}
	}
	for i, line := range lines {
		if want := []string{away, back}[i%2]; line != want {
			t.Errorf("line %d is %q, want the lines in turns:\n%s", i+1, line, r.log)
		}
	}
	if len(lines) < 2 {
		t.Errorf("no line %q in\n%s", back, r.log)
	}
}

// TestCollectorRejects: a collector may keep only some spans of a request, and say why at any
// length, or keep all and only say something.
func TestCollectorRejects(t *testing.T) {
	for _, tc := range []struct {
		rejects      int64
		failed, logs int
	}{{0, 0, 0}, {2, 2, 1}, {1 << 40, 3, 1}, {-1, 0, 0}} {
		c := newCollector(t, "")
		c.Reject(tc.rejects, "no room\x1b"+strings.Repeat("x", 1<<16))
		r := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.Endpoint})
		r.spans(t, 3)
		r.stop()
		if failed, sent := r.counted(export.Failed), r.counted(export.Sent); failed != tc.failed || sent != 3-tc.failed {
			t.Errorf("%d rejected: %d failed, %d sent", tc.rejects, failed, sent)
		}
		if log := r.log.String(); strings.Count(log, "no room") != tc.logs || len(log) > 2000 {
			t.Errorf("%d rejected: %d bytes of log:\n%.500s", tc.rejects, len(log), log)
		}
	}
}

// TestCollectorHangs: what is kept is bounded, no caller waits, and the end of the
// driver is not held up.
func TestCollectorHangs(t *testing.T) {
	c := newCollector(t, "")
	release := c.Hang()
	defer release()
	r := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.Endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "3600000", "OTEL_BSP_EXPORT_TIMEOUT": "3600000", "OTEL_BSP_MAX_QUEUE_SIZE": "20"})
	r.spans(t, 1000)
	testkit.Equal(t, "spans were dropped", r.counted(export.Dropped), 980)
	r.stop() // or the test's own time-out
	testkit.Eventually(t, "what is left is given up", func() bool { return r.counted(export.Failed) == 20 })
}
