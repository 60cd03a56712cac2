package wire

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// classMarker is in the class's text. No span may contain it.
const classMarker = "cl4ss-marker"

// spans are the received spans of one trace, by name.
type spans struct {
	root collector.Span
	of   map[string][]collector.Span
}

func (x spans) one(t *testing.T, name string) collector.Span {
	t.Helper()
	if len(x.of[name]) != 1 {
		t.Fatalf("%d spans %q in %v", len(x.of[name]), name, slices.Sorted(maps.Keys(x.of)))
	}
	return x.of[name][0]
}

// awaitSpans waits for the trace of a pod's publish, refresh or release.
func awaitSpans(t *testing.T, c *collector.Collector, pod kubelet.Pod, kind volume.Kind) spans {
	t.Helper()
	var x spans
	testkit.Eventually(t, string(kind)+" of "+pod.Name+" arrives", func() bool {
		all := c.Spans()
		for _, root := range all {
			if root.Name != string(kind) || root.Attributes[trace.KeyPodUID] != pod.UID {
				continue
			}
			x = spans{root, map[string][]collector.Span{}}
			for _, s := range all {
				if s.Trace == root.Trace {
					x.of[s.Name] = append(x.of[s.Name], s)
				}
			}
			return true
		}
		return false
	})
	return x
}

func TestTraces(t *testing.T) {
	c := testkit.Value(collector.Start(""))(t)
	t.Cleanup(c.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.Endpoint)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	r := newRig(t, func(n *node.Config) { n.Traces = true })
	testkit.Must(t, r.vault.Write(t.Context(), "sys/config/auditing/request-headers/traceparent", map[string]any{"hmac": false}))
	r.manifest("secrets", "- {objectName: password, secretPath: secret/data/db, secretKey: password} # "+classMarker)
	p, intruder := r.pod("web-0", "web", "secrets"), r.pod("intruder", "other", "secrets")

	// Another caller than kubelet may name a trace.
	const caller = "0af7651916cd43dd8448eb211c80319c"
	testkit.Must(t, r.Publish(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+caller+"-b7ad6b7169203331-01"), p))
	first := awaitSpans(t, c, p, volume.Published)
	if first.root.Trace != caller || first.root.Parent != "b7ad6b7169203331" {
		t.Errorf("the publish is in trace %s below %q", first.root.Trace, first.root.Parent)
	}
	for key, want := range map[string]string{
		trace.KeyPodName: "web-0", trace.KeyPodNamespace: "shop", trace.KeyVolume: p.VolumeID(), trace.KeyClass: "secrets",
		trace.KeyProvider: "vault", trace.KeyChanged: "true",
	} {
		if got := first.root.Attributes[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if first.root.About["k8s.node.name"] != "node-1" || first.root.Failed {
		t.Errorf("the publish is %+v", first.root)
	}
	r.wantSteps(t, first)
	read := first.one(t, string(endpoint.OpRead))
	if first.one(t, string(endpoint.OpLogin)).Parent != first.one(t, string(volume.StepStore)).ID || read.Kind != tracepb.Span_SPAN_KIND_CLIENT ||
		read.Attributes[trace.KeyStatus] != "200" || read.Attributes[trace.KeyServer] != "127.0.0.1" || read.Attributes[trace.KeyPort] == "" {
		t.Errorf("the read is %+v", read)
	}
	r.wantInVault(t, first, read)

	r.put("db", "two")
	r.refresh <- unix.SIGHUP
	again := awaitSpans(t, c, p, volume.Refreshed)
	r.wantSteps(t, again)
	if again.root.Parent != "" || again.root.Attributes[trace.KeyChanged] != "true" {
		t.Errorf("the refresh is %+v", again.root)
	}

	_ = r.refuse(intruder)
	denied := awaitSpans(t, c, intruder, volume.Published)
	login := denied.one(t, string(endpoint.OpLogin))
	for _, s := range []collector.Span{denied.root, denied.one(t, string(volume.StepStore)), login} {
		if !s.Failed || s.Words != "" || s.Attributes[trace.KeyReason] == "" {
			t.Errorf("of a publish that the store refused: %+v", s)
		}
	}
	if login.Attributes[trace.KeyStatus] != "403" {
		t.Errorf("the refused login is %+v", login)
	}

	testkit.Must(t, r.Unpublish(t.Context(), p))
	gone := awaitSpans(t, c, p, volume.Released)
	if s := gone.one(t, string(endpoint.OpRevoke)); s.Parent != gone.root.ID || gone.root.Failed {
		t.Errorf("the revocation is %+v", s)
	}
	r.stop()
	r.noSecretIn("the traces", c.Text())
	for _, text := range []string{classMarker, "secret/data", "secretKey", "permission denied", "not authorized"} {
		if strings.Contains(c.Text(), text) {
			t.Errorf("the traces hold %q, which is a text of the class or the store", text)
		}
	}
	wantDocumented(t, c.Spans())
}

// wantSteps checks that each step has one span, a child of the root and within its time.
func (r *rig) wantSteps(t *testing.T, x spans) {
	t.Helper()
	for _, step := range volume.Steps() {
		if step == volume.StepFollow { // neither sync nor restarts are switched on
			if len(x.of[string(step)]) > 0 {
				t.Errorf("%s has a step %s", x.root.Name, step)
			}
			continue
		}
		if s := x.one(t, string(step)); s.Parent != x.root.ID || s.Start < x.root.Start || s.End > x.root.End {
			t.Errorf("step %s of %s is %+v", step, x.root.Name, s)
		}
	}
}

// wantInVault checks that Vault received the id of the request's span and the correlation id.
func (r *rig) wantInVault(t *testing.T, x spans, read collector.Span) {
	t.Helper()
	entries := testkit.Value(r.vault.AuditEntries(t.Context()))(t)
	for _, e := range entries {
		if e.Path != "secret/data/db" || !slices.Contains(e.Headers["x-correlation-id"], read.Attributes[trace.KeyCorrelation]) {
			continue
		}
		if want := "00-" + x.root.Trace + "-" + read.ID + "-01"; !slices.Contains(e.Headers["traceparent"], want) {
			t.Errorf("Vault has the read with %v, want %s", e.Headers, want)
		}
		if !slices.Contains(strings.Split(x.root.Attributes[trace.KeyAsked], ","), read.Attributes[trace.KeyCorrelation]) {
			t.Errorf("the publish does not have its read's correlation id: %+v", x.root)
		}
		return
	}
	t.Errorf("Vault has no read %q", read.Attributes[trace.KeyCorrelation])
}

// wantDocumented checks that docs/monitoring.md lists exactly the spans and attributes that exist.
func wantDocumented(t *testing.T, seen []collector.Span) {
	t.Helper()
	page := testkit.Value(os.ReadFile("../../docs/monitoring.md"))(t)
	_, text, _ := strings.Cut(string(page), "\n| Span | ")
	spans, attributes, ok := strings.Cut(text, "\n| Attribute | Value |")
	if !ok {
		t.Fatal("docs/monitoring.md has no table of spans and attributes")
	}
	names := []string{string(volume.Published), string(volume.Refreshed), string(volume.Released), "plugin"}
	for _, s := range volume.Steps() {
		names = append(names, string(s))
	}
	for _, o := range endpoint.Operations() {
		names = append(names, string(o))
	}
	for _, x := range []struct {
		what, text string
		are        []string
	}{{"spans", spans, names}, {"attributes", attributes, trace.Keys()}} {
		var documented []string
		for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(x.text, -1) {
			for name := range strings.SplitSeq(row[1], ", ") {
				documented = append(documented, strings.Trim(name, "`"))
			}
		}
		slices.Sort(documented)
		slices.Sort(x.are)
		if !slices.Equal(documented, x.are) {
			t.Errorf("docs/monitoring.md has the %s %v, there are %v", x.what, documented, x.are)
		}
	}
	for _, s := range seen {
		if !slices.Contains(names, s.Name) {
			t.Errorf("a span %q", s.Name)
		}
		for key := range s.Attributes {
			if !slices.Contains(trace.Keys(), key) {
				t.Errorf("span %s has an attribute %q", s.Name, key)
			}
		}
	}
}
