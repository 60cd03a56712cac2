package akeyless

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// call is one request: a POST of a JSON object, in which the credential is.
type call struct {
	endpoint  *endpoint.Endpoint
	operation endpoint.Operation
	path      string
	body      map[string]any
	// about is what the request is for, so that the circuit breaker can tell
	// one broken producer from a broken gateway.
	about string
	// tenant is the Kubernetes namespace of the pod.
	tenant string
	// issues tells that repeating the request may leave something behind in
	// the store, so it is only repeated when it had no effect for sure.
	issues bool
	// patience is how long the answer may take; 0 means Config.RequestTimeout.
	patience time.Duration
	// secrets must not appear in an error, even if the store says them.
	secrets []secret.String
	// reads tells that the answer may be as large as the operator allows.
	reads bool
	// owner is who is charged for the answer; nobody is for a login or the end
	// of a credential, which must work in any case.
	owner budget.Owner
}

// client makes requests to gateways, and to the clouds' token services.
type client struct {
	config    *Config
	requests  endpoint.Client
	endpoints *endpoint.Pool
}

// do makes the call, again where that is safe and may help. Its error has a
// reason; the reply comes along where there was one. One without an error has
// to be released.
func (c *client) do(ctx context.Context, k call) (*endpoint.Reply, error) {
	body, err := json.Marshal(k.body)
	if err != nil {
		return nil, fault.New(fault.Internal, "writing the request to %s", k.path)
	}
	return c.send(ctx, k, judge, func(ctx context.Context) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, k.endpoint.Address.URL(k.path).String(), bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		trace.ToHTTP(ctx, r.Header)
		if id := provider.Correlation(ctx); id != "" {
			r.Header.Set(headerCorrelation, id)
		}
		return r, nil
	})
}

// send makes a call by a request, and understands a bad answer by judge: both
// differ between Akeyless and the clouds.
func (c *client) send(ctx context.Context, k call, judge func(call, *endpoint.Reply) error, request func(context.Context) (*http.Request, error)) (*endpoint.Reply, error) {
	return c.requests.Do(ctx, endpoint.Call{
		Endpoint: k.endpoint, Operation: k.operation, Caller: endpoint.Caller{Tenant: k.tenant, Place: k.about},
		Issues: k.issues, Reads: k.reads, Owner: k.owner, Patience: k.patience,
		Send:   func(ctx context.Context) (*http.Response, error) { return c.exchange(ctx, k, request) },
		Judge:  func(r *endpoint.Reply) error { return judge(k, r) },
		Repeat: func(r *endpoint.Reply) bool { return again(k, r) },
		Said:   outcomeOf,
		Scrub:  func(words string) string { return scrub(words, k.secrets) },
	})
}

// exchange makes the request once. Redirects are not followed, because the body
// holds a credential.
func (c *client) exchange(ctx context.Context, k call, request func(context.Context) (*http.Request, error)) (*http.Response, error) {
	r, err := request(ctx)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", c.config.UserAgent)
	r.Header.Set("Accept", "application/json")
	id := r.Header.Get(headerCorrelation)
	provider.Asked(ctx, id)
	resp, err := k.endpoint.Transport().RoundTrip(r)
	if err == nil && id != "" {
		provider.Asked(ctx, ownID(resp))
	}
	return resp, err
}

const (
	// headerCorrelation has our id of the request, for the logs on its way.
	headerCorrelation = "X-Correlation-ID"
	// headerRequest has the server's own id, where it answers one.
	headerRequest = "X-Request-Id"
	longestID     = 128
)

// ownID is the server's id of a request; empty for none that can be used.
func ownID(resp *http.Response) string {
	id := resp.Header.Get(headerRequest)
	if len(id) > longestID || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return id
}

// again tells whether repeating the call after an answer is safe and may help.
func again(k call, r *endpoint.Reply) bool {
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true // turned away before it had an effect
	}
	return !k.issues && r.Status >= 500 && !saysWhy(r)
}

// outcomeOf tells the circuit breaker what an answer says of the server.
func outcomeOf(r *endpoint.Reply, failure error) endpoint.Outcome {
	switch {
	case r.Status >= 500 && saysWhy(r) && !turnedAway(r.Status):
		return endpoint.BrokenPlace
	case failure == nil, !fault.Of(failure).Outage():
		return endpoint.Answered
	case r.Status == http.StatusTooManyRequests, r.Status == http.StatusServiceUnavailable && saysWhy(r):
		return endpoint.Outage
	}
	return endpoint.Unanswered // a proxy's word, which may be about the item alone
}

func turnedAway(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
