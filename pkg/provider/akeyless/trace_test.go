package akeyless

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/test/tracetest"
)

// TestTrace: a request is a span, of which the gateway is told.
func TestTrace(t *testing.T) {
	got := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("Traceparent")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	p := newProvider(t, Config{DefaultGateway: s.URL, Settings: endpoint.Settings{MaxRetries: -1}})
	var ended []trace.Ended
	tracer := tracetest.New(&ended, true)
	ctx, span := tracer.Begin(t.Context(), "publish", trace.Work{})
	_, err := p.Fetch(ctx, provider.Request{
		Volume: "v", Pod: identity.Pod{Namespace: "shop", Name: "v", UID: "uid", ServiceAccount: "web"},
		Class: classOf(base(keyAccessType, string(typeAccessKey), keyAccessKey, "key")),
	})
	span.End(err)
	login := ended[0]
	want := "00-" + span.ID() + "-" + login.Context.SpanID().String() + "-01"
	if header := <-got; login.Name != string(endpoint.OpLogin) || header != want {
		t.Errorf("span %s, traceparent %q, want %q: %v", login.Name, header, want, err)
	}
}
