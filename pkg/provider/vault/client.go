package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

const (
	headerCorrelation = "X-Correlation-ID"
	maxRedirects      = 2
	// maxShort bounds the answers that are about a token, a lease or a version.
	maxShort = 256 << 10
	// aheadOfMint is charged for a credential before it is asked for, since the
	// store has made it when its answer comes.
	aheadOfMint = 64 << 10
)

// client makes requests: through one API client for all endpoints, with our
// own rules for redirects and retries.
type client struct {
	config  *Config
	allowed endpoint.Allowlist
	names   endpoint.Names
	api     *api.Client
}

// newClient builds the API client once. Its constructor looks at the VAULT_*
// variables of the process, so all that it may have found there is taken out.
func newClient(c *Config, allowed endpoint.Allowlist) (*client, error) {
	settings := &api.Config{
		Address: "http://unused.invalid",
		HttpClient: &http.Client{
			Transport:     dispatcher{c.MaxResponseBytes},
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
	return &client{config: c, allowed: allowed, names: settingNames(c.Name), api: a}, nil
}

// call is one request.
type call struct {
	endpoint  *endpoint.Endpoint
	namespace string
	// tenant is the Kubernetes namespace of the pod.
	tenant string
	token  secret.String
	method string
	path   string // below /v1/
	// about tells calls of one path apart that depend on different engines.
	about string
	query url.Values
	body  []byte
	// mints tells that repeating the request may leave something behind in
	// the store, so it is only repeated when it had no effect for sure.
	mints bool
	// renews tells that status 500 may be a refusal.
	renews bool
	// correlation goes into the store's audit log.
	correlation string
	// secrets must not appear in an error, even if the store says them.
	secrets []secret.String
	// reads tells that the answer may be as large as the operator allows.
	reads bool
	// owner is who is charged for the answer; nobody is for what keeps alive or
	// ends what a volume has, which must work in any case.
	owner budget.Owner
}

func (c *client) limit(k call) int64 {
	if k.reads {
		return c.config.MaxResponseBytes
	}
	return min(maxShort, c.config.MaxResponseBytes)
}

// charge is for the answer to a call.
func (c *client) charge(k call) (*budget.Charge, error) {
	switch {
	case k.owner == budget.Owner{}:
		return nil, nil
	case k.mints && k.reads:
		return c.config.Budget.Acquire(k.owner, budget.Answers, aheadOfMint)
	}
	return c.config.Budget.Acquire(k.owner, budget.Answers, endpoint.Ahead)
}

// caller is whom the circuit breaker holds up for what it learns of the call.
func (k call) caller() session.Caller {
	return session.Caller{Namespace: k.namespace, Tenant: k.tenant, Place: k.path + "\n" + k.about}
}

// reply is an answer with status 200 to 299, or the one that an error is about.
type reply struct {
	status      int
	contentType string
	retryAfter  time.Duration
	body        []byte
	// charge is for the body. It is given back with release, once what is
	// wanted of the body has been taken.
	charge *budget.Charge
}

func (r *reply) release() {
	if r != nil {
		r.charge.Release()
	}
}

// do makes the call, again where that is safe and may help. Its error has
// a reason; the reply comes along where there was one. One without an error has
// to be released.
func (c *client) do(ctx context.Context, k call) (*reply, error) {
	b := &k.endpoint.Breaker
	for n := 0; ; n++ {
		if err := b.Admit(c.config.Now(), c.config.Jitter(), k.caller()); err != nil {
			return nil, fmt.Errorf("%s: %w", k.endpoint.Address, err)
		}
		r, err := c.attempt(ctx, k)
		failure := c.judge(ctx, k, r, err)
		b.Record(c.config.Now(), outcomeOf(ctx, k, r, err, failure), k.caller(), retryAfterOf(r), failure)
		if failure == nil {
			return r, nil
		}
		r.release()
		wait := session.Pause(c.config.RetryBase, n, retryAfterOf(r), c.config.Jitter())
		if n >= c.config.MaxRetries || !c.again(k, r, err) || !session.WorthWaiting(ctx, wait) || session.Sleep(ctx, wait) != nil {
			b.Advise(failure, c.config.Now(), c.config.Jitter(), k.caller())
			return r, failure
		}
	}
}

func retryAfterOf(r *reply) time.Duration {
	if r == nil {
		return 0
	}
	return r.retryAfter
}

// again tells whether repeating the call is safe and may help.
func (c *client) again(k call, r *reply, err error) bool {
	if err != nil {
		if hopeless(err) {
			return false
		}
		return !k.mints || endpoint.NeverSent(err)
	}
	return mayPass(r.status) && !refusedRenewal(k, r) && (!k.mints || untouched(r.status))
}

// attempt makes the request once, and follows a redirect to the active node.
func (c *client) attempt(ctx context.Context, k call) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.config.RequestTimeout, errNoAnswer)
	defer cancel()
	charge, err := c.charge(k)
	if err != nil {
		return nil, err
	}
	r, err := c.exchange(context.WithValue(context.WithValue(ctx, endpointKey{}, k.endpoint), onceKey{}, k.mints), k, charge)
	if err != nil {
		charge.Release()
		return nil, withCause(ctx, err)
	}
	r.charge = charge
	return r, nil
}

func (c *client) exchange(ctx context.Context, k call, charge *budget.Charge) (*reply, error) {
	u := k.endpoint.Address.URL("/v1/" + k.path)
	for n := 0; ; n++ {
		resp, err := c.send(ctx, k, u)
		if err != nil {
			return nil, err
		}
		if !isRedirect(resp.StatusCode) || n >= maxRedirects {
			if resp.StatusCode < http.StatusMultipleChoices {
				endpoint.Bound(resp, c.limit(k))
			}
			return c.read(resp, charge)
		}
		_ = resp.Body.Close()
		if u, err = c.follow(k, u, resp); err != nil {
			return nil, err
		}
	}
}

// send makes one HTTP exchange. The API client joins and cleans paths, so the
// URL is put into the request after it did.
func (c *client) send(ctx context.Context, k call, u *url.URL) (*http.Response, error) {
	provider.Asked(ctx, k.correlation)
	shape := func(r *api.Request) {
		r.Method, r.URL, r.Host, r.Params = k.method, u, u.Host, k.query
		r.ClientToken = k.token.Reveal()
		r.Headers = http.Header{
			api.RequestHeaderName: {"true"},
			"User-Agent":          {c.config.UserAgent},
		}
		if k.namespace != "" {
			r.Headers.Set(api.NamespaceHeaderName, k.namespace)
		}
		if k.correlation != "" {
			r.Headers.Set(headerCorrelation, k.correlation)
		}
		if k.body != nil {
			r.BodyBytes = k.body
			r.Headers.Set("Content-Type", "application/json")
		}
	}
	resp, err := c.api.WithRequestCallbacks(shape).Logical().ReadRawWithContext(ctx, "")
	var refused *api.ResponseError
	if errors.As(err, &refused) { // its body is still there to read
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

func (c *client) read(resp *http.Response, charge *budget.Charge) (*reply, error) {
	defer func() { _ = resp.Body.Close() }()
	body, err := endpoint.ReadBody(resp, charge)
	if err != nil {
		return nil, err
	}
	return &reply{
		status:      resp.StatusCode,
		contentType: resp.Header.Get("Content-Type"),
		retryAfter:  session.ParseRetryAfter(resp.Header.Get("Retry-After"), c.config.Now()),
		body:        body,
	}, nil
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// follow checks where the server sends us. The Vault token or the pod's goes
// there, so it must be a server that a class could have named, and no less
// protected. A standby sends us to the active node for the same request; what is
// sent elsewhere on a server is no Vault, and its answer none either.
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
	case !c.allowed.Allows(a) && !strings.EqualFold(from.Host, to.Host):
		return nil, fault.New(fault.NotAllowed, "redirected to %s, which this node's operator does not allow", a).
			WithHint("allow the addresses of all Vault servers with %s, or set their api_addr to the allowed one", setting.Name("--vault-allowed-addresses"))
	case !k.isFor(from, to):
		return nil, fault.New(fault.BadAnswer, "redirected to another path or query, on %s", a).
			WithHint("a Vault standby redirects to the same request on the active node: is this the address of a Vault server, or of a proxy before it?")
	}
	return a.URL(to.Path), nil
}

// isFor tells whether a redirect's target is the same request. A server behind
// a proxy does not know what the proxy took off the front of the path.
func (k call) isFor(from, to *url.URL) bool {
	return (to.Path == from.Path || to.Path == "/v1/"+k.path) && to.Fragment == "" && to.Query().Encode() == k.query.Encode()
}
