package vault

import (
	"io"
	"net/http"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// onceKey is where a request's context says that it must not be repeated.
type onceKey struct{}

// endpointKey is where a request's context carries its endpoint.
type endpointKey struct{}

// dispatcher sends each request over the transport of its endpoint, so that
// one API client serves all of them, and bounds what it reads.
type dispatcher struct{ limit int64 }

func (d dispatcher) RoundTrip(r *http.Request) (*http.Response, error) {
	e, ok := r.Context().Value(endpointKey{}).(*endpoint.Endpoint)
	if !ok {
		return nil, fault.New(fault.Internal, "a request without an endpoint")
	}
	if once, _ := r.Context().Value(onceKey{}).(bool); once && r.ContentLength == 0 {
		// net/http repeats a GET by itself when a kept connection ends before
		// the answer, but not one with a body that it cannot read again.
		r = r.Clone(r.Context())
		r.Body, r.GetBody = io.NopCloser(strings.NewReader("")), nil
	}
	resp, err := e.Transport().RoundTrip(r)
	if err == nil {
		endpoint.Bound(resp, d.limit)
	}
	return resp, err
}
