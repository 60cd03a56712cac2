package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

const (
	headerCorrelation = "X-Correlation-ID"
	maxRedirects      = 2
)

// client sends requests: through one API client for all endpoints, with its own rule for
// redirects.
type client struct {
	requests endpoint.Client
	api      *api.Client
}

// newClient builds the API client once. Its constructor reads the VAULT_* variables of the
// process, so newClient removes their effects.
func newClient(requests endpoint.Client) (*client, error) {
	settings := &api.Config{
		Address: "http://unused.invalid",
		HttpClient: &http.Client{
			Transport:     dispatcher{requests.Settings.MaxResponseBytes},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		DisableRedirects: true,
	}
	a, err := api.NewClient(settings)
	if err != nil {
		return nil, fmt.Errorf("vault: making the API client: %w", err)
	}
	a.ClearToken()
	a.SetHeaders(http.Header{})
	a.SetWrappingLookupFunc(func(string, string) string { return "" })
	return &client{requests: requests, api: a}, nil
}

// call is one request. The namespace is that of its Caller.
type call struct {
	endpoint.Call
	token  *session.Token // nil for a login
	method string
	path   string // below /v1/
	query  url.Values
	body   []byte
	// renews says that status 500 may be a refusal.
	renews bool
	// secrets must not appear in an error, even if the store repeats them.
	secrets []secret.String
}

// complete returns the call with what is the same for every request.
func (c *client) complete(k call) endpoint.Call {
	k.Send = func(ctx context.Context, e *endpoint.Endpoint) (*http.Response, error) { return c.exchange(ctx, e, k) }
	k.Refusal = func(e *endpoint.Endpoint, r *endpoint.Reply) error { return refusal(e, r, k.renews, k.secrets) }
	k.Repeat = func(r *endpoint.Reply) bool { return mayRepeat(r, k.renews, k.Issues) }
	k.Outcome = func(r *endpoint.Reply, failure error) endpoint.Outcome { return outcomeOf(r, failure, k.renews) }
	k.Scrub = func(words string) string { return scrub(words, k.secrets) }
	return k.Call
}

// exchange sends the request once, and follows a redirect to the active node.
func (c *client) exchange(ctx context.Context, e *endpoint.Endpoint, k call) (*http.Response, error) {
	ctx = context.WithValue(context.WithValue(ctx, endpointKey{}, e), onceKey{}, k.Issues)
	u := e.Address.URL("/v1/" + k.path)
	for n := 0; ; n++ {
		resp, err := c.send(ctx, k, u)
		if err != nil || !isRedirect(resp.StatusCode) || n >= maxRedirects {
			return resp, err
		}
		_ = resp.Body.Close()
		if u, err = c.follow(k, u, resp); err != nil {
			return nil, err
		}
	}
}

// send makes one HTTP exchange. The API client joins and cleans paths, so send sets the
// request's URL after that.
func (c *client) send(ctx context.Context, k call, u *url.URL) (*http.Response, error) {
	provider.Asked(ctx, k.Correlation)
	shape := func(r *api.Request) {
		r.Method, r.URL, r.Host, r.Params = k.method, u, u.Host, k.query
		if k.token != nil {
			r.ClientToken = k.token.Value.Reveal()
		}
		r.Headers = http.Header{
			api.RequestHeaderName: {"true"},
			"User-Agent":          {c.requests.Settings.UserAgent},
		}
		if k.Caller.Namespace != "" {
			r.Headers.Set(api.NamespaceHeaderName, k.Caller.Namespace)
		}
		if k.Correlation != "" {
			r.Headers.Set(headerCorrelation, k.Correlation)
		}
		trace.ToHTTP(ctx, r.Headers)
		if k.body != nil {
			r.BodyBytes = k.body
			r.Headers.Set("Content-Type", "application/json")
		}
	}
	resp, err := c.api.WithRequestCallbacks(shape).Logical().ReadRawWithContext(ctx, "")
	var refused *api.ResponseError
	if errors.As(err, &refused) { // its body can still be read
		err = nil
	}
	if err != nil {
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
		return nil, err
	}
	return resp.Response, nil
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// follow checks a redirect. The pod's token is sent there, so the target must be a server
// that a class could name, with the same protection. A standby redirects to the active
// node for the same request; any other redirect is not Vault's, and neither is its answer.
func (c *client) follow(k call, from *url.URL, resp *http.Response) (*url.URL, error) {
	to, err := resp.Location()
	if err != nil {
		return nil, fault.New(fault.BadAnswer, "redirected with status %d without a usable Location", resp.StatusCode)
	}
	if !to.IsAbs() || to.Host == "" {
		to = from.ResolveReference(to)
	}
	server := url.URL{Scheme: to.Scheme, Host: to.Host}
	a, err := endpoint.ParseAddress(server.String())
	switch {
	case err != nil || to.User != nil:
		return nil, fault.New(fault.BadAnswer, "redirected to what is no http or https URL")
	case from.Scheme == "https" && a.Plain():
		return nil, fault.New(fault.BadAnswer, "redirected from https to %s", a).
			WithHint("set api_addr of the Vault servers to their https address")
	case !c.requests.Pool.Allowed.Allows(a) && !strings.EqualFold(from.Host, to.Host):
		return nil, fault.New(fault.NotAllowed, "redirected to %s, which this node's operator does not allow", a).
			WithHint("allow the addresses of all Vault servers with %s, or set their api_addr to the allowed one", setting.Name("--vault-allowed-addresses"))
	case !k.isFor(from, to):
		return nil, fault.New(fault.BadAnswer, "redirected to another path or query, on %s", a).
			WithHint("a Vault standby redirects to the same request on the active node: is this the address of a Vault server, or of a proxy before it?")
	}
	return a.URL(to.Path), nil
}

// isFor reports whether a redirect is for the same request. A server behind a proxy does
// not know what the proxy has removed from the beginning of the path.
func (k call) isFor(from, to *url.URL) bool {
	return (to.Path == from.Path || to.Path == "/v1/"+k.path) && to.Fragment == "" && to.Query().Encode() == k.query.Encode()
}

// onceKey is the context key of requests that must not be repeated.
type onceKey struct{}

// endpointKey is the context key of a request's endpoint.
type endpointKey struct{}

// dispatcher sends each request over the transport of its endpoint, so that one API client
// serves all of them, and bounds the answer.
type dispatcher struct{ limit int64 }

func (d dispatcher) RoundTrip(r *http.Request) (*http.Response, error) {
	e, ok := r.Context().Value(endpointKey{}).(*endpoint.Endpoint)
	if !ok {
		return nil, fault.New(fault.Internal, "a request without an endpoint")
	}
	if once, _ := r.Context().Value(onceKey{}).(bool); once && r.ContentLength == 0 {
		// net/http repeats a GET by itself when a kept connection ends before the answer,
		// but not a request with a body that it cannot read again.
		r = r.Clone(r.Context())
		r.Body, r.GetBody = io.NopCloser(strings.NewReader("")), nil
	}
	resp, err := e.Transport().RoundTrip(r)
	if err == nil {
		endpoint.Bound(resp, d.limit)
	}
	return resp, err
}
