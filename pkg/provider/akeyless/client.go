package akeyless

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// call is one request: a POST of a JSON object, which has the credential.
type call struct {
	endpoint.Call
	path string
	body map[string]any
	// secrets must not appear in an error, even if the store repeats them.
	secrets []secret.String
}

// client sends requests to gateways, and to the clouds' token services.
type client struct {
	requests endpoint.Client
	clouds   Clouds
}

// complete returns the call with what is the same for every request.
func (c *client) complete(k call) endpoint.Call {
	k.Send = func(ctx context.Context, e *endpoint.Endpoint) (*http.Response, error) {
		body := k.body
		if body["gateway-url"] == k.Pair.First.Address.String() { // the gateway itself reviews the pod's token
			body = maps.Clone(body)
			body["gateway-url"] = e.Address.String()
		}
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fault.New(fault.Internal, "writing the request to %s", k.path)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Address.URL(k.path).String(), bytes.NewReader(text))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		trace.ToHTTP(ctx, r.Header)
		if id := provider.Correlation(ctx); id != "" {
			r.Header.Set(headerCorrelation, id)
		}
		return c.exchange(ctx, e, r)
	}
	k.Refusal = func(e *endpoint.Endpoint, r *endpoint.Reply) error { return refusal(e, r, k.secrets) }
	return finished(k)
}

// finished adds what is the same for Akeyless and the clouds.
func finished(k call) endpoint.Call {
	k.Repeat = func(r *endpoint.Reply) bool { return again(r, k.Issues) }
	k.Outcome = outcomeOf
	k.Scrub = func(words string) string { return scrub(words, k.secrets) }
	return k.Call
}

// exchange sends a request once. It does not follow redirects, because the body has a
// credential.
func (c *client) exchange(ctx context.Context, e *endpoint.Endpoint, r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", c.requests.Settings.UserAgent)
	r.Header.Set("Accept", "application/json")
	id := r.Header.Get(headerCorrelation)
	provider.Asked(ctx, id)
	resp, err := e.Transport().RoundTrip(r)
	if err == nil && id != "" {
		provider.Asked(ctx, ownID(resp))
	}
	return resp, err
}

const (
	// headerCorrelation has our id of the request, for logs on the way.
	headerCorrelation = "X-Correlation-ID"
	// headerRequest has the server's own id, if it returns one.
	headerRequest = "X-Request-Id"
	longestID     = 128
)

// ownID returns the server's id of a request; empty if there is none, or it cannot be
// used.
func ownID(resp *http.Response) string {
	id := resp.Header.Get(headerRequest)
	if len(id) > longestID || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return id
}
