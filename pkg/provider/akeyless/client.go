package akeyless

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// call is one request: a POST of a JSON object, which has the credential.
type call struct {
	// endpoint is where the call is sent; hasOther says that the store has another
	// address.
	endpoint  *endpoint.Endpoint
	hasOther  bool
	operation endpoint.Operation
	path      string
	body      map[string]any
	// about is the subject of the request, so that the circuit breaker can distinguish one
	// broken producer from a broken gateway.
	about string
	// tenant is the Kubernetes namespace of the pod.
	tenant string
	// issues says that the request may create something at the store, so it is repeated
	// only if it certainly had no effect.
	issues bool
	// patience is how long the answer may take; 0 means Config.RequestTimeout.
	patience time.Duration
	// secrets must not appear in an error, even if the store repeats them.
	secrets []secret.String
	// reads says that the answer may be as large as the operator allows.
	reads bool
	// owner is charged for the answer; zero for a login or the revocation of a credential,
	// which must work in any case.
	owner budget.Owner
}

// client sends requests to gateways, and to the clouds' token services.
type client struct {
	config    *Config
	requests  endpoint.Client
	endpoints *endpoint.Pool
}

// do sends the request, and again if that is safe and may help. Its error has a reason;
// the reply is returned too if there was one. A reply without an error must be released.
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

// send sends a call with request, and reads a bad answer with judge: both differ between
// Akeyless and the clouds.
func (c *client) send(ctx context.Context, k call, judge func(call, *endpoint.Reply) error, request func(context.Context) (*http.Request, error)) (*endpoint.Reply, error) {
	return c.requests.Do(ctx, endpoint.Call{
		Endpoint: k.endpoint, Operation: k.operation, Caller: endpoint.Caller{Tenant: k.tenant, Path: k.about},
		Issues: k.issues, Reads: k.reads, Owner: k.owner, Patience: k.patience, HasOther: k.hasOther,
		Send:    func(ctx context.Context) (*http.Response, error) { return c.exchange(ctx, k, request) },
		Check:   func(r *endpoint.Reply) error { return judge(k, r) },
		Repeat:  func(r *endpoint.Reply) bool { return again(k, r) },
		Outcome: outcomeOf,
		Scrub:   func(words string) string { return scrub(words, k.secrets) },
	})
}

// exchange sends the request once. It does not follow redirects, because the body has a
// credential.
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

// again reports whether repeating the call is safe and may help.
func again(k call, r *endpoint.Reply) bool {
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true // refused before it had an effect
	}
	return !k.issues && r.Status >= 500 && !saysWhy(r)
}

// outcomeOf returns what an answer means for the circuit breaker.
func outcomeOf(r *endpoint.Reply, failure error) endpoint.Outcome {
	switch {
	case r.Status >= 500 && saysWhy(r) && !turnedAway(r.Status):
		return endpoint.BrokenPath
	case failure == nil, !fault.Of(failure).Outage():
		return endpoint.Answered
	case r.Status == http.StatusTooManyRequests, r.Status == http.StatusServiceUnavailable && saysWhy(r):
		return endpoint.Outage
	}
	return endpoint.Unanswered // of a proxy, and perhaps for this item only
}

func turnedAway(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// errUnauthorized marks an answer with status 401: the Akeyless token may have expired, so
// a new login may help.
var errUnauthorized = errors.New("unauthorized")

// judge returns an error for everything but a good answer. It quotes only an error in
// Akeyless' own form: any other text may contain anything.
func judge(k call, r *endpoint.Reply) error {
	if r.Status >= 200 && r.Status < 300 {
		return nil
	}
	words, hint := wordsOf(r)
	words = scrub(words, k.secrets)
	reason := reasonOf(r, words)
	f := fault.New(reason, "%s answered %d: %s", k.endpoint.Address, r.Status, words)
	if reason == fault.Denied && r.Status == http.StatusUnauthorized {
		f.Err = unauthorized{f.Err}
	}
	f.RetryAfter = r.RetryAfter
	return f.WithHint("%s", hint)
}

// unauthorized is an error that matches errUnauthorized and has the same text.
type unauthorized struct{ error }

func (u unauthorized) Unwrap() error      { return u.error }
func (unauthorized) Is(target error) bool { return target == errUnauthorized }

// reasonOf uses the status, except where Akeyless' text contradicts it, such as status 500
// for an item that does not exist. A denial, a missing item and a wrong request need
// Akeyless' own text: a proxy may return the same status for every request while the
// gateway is unavailable.
func reasonOf(r *endpoint.Reply, words string) fault.Reason {
	words = strings.ToLower(words)
	switch {
	case r.Status >= 300 && r.Status < 400:
		return fault.BadAnswer
	case r.Status == http.StatusTooManyRequests:
		return fault.RateLimited
	case r.Status >= 400 && saysWhy(r) && saysMissing(words):
		return fault.NotFound
	case r.Status >= 500:
		return fault.Unavailable
	case !saysWhy(r):
		return fault.BadAnswer
	case r.Status == http.StatusUnauthorized, r.Status == http.StatusForbidden:
		return fault.Denied
	case r.Status == http.StatusNotFound:
		return fault.NotFound
	}
	return fault.Rejected
}

func saysMissing(words string) bool {
	for _, phrase := range []string{"not found", "does not exist", "doesn't exist", "not exist", "no such item"} {
		if strings.Contains(words, phrase) {
			return true
		}
	}
	return false
}

// saysWhy reports whether the answer is an error in Akeyless' form: a JSON object with the
// field error only. Proxies return more fields, or other names.
func saysWhy(r *endpoint.Reply) bool { return akeylessError(r) != "" }

func akeylessError(r *endpoint.Reply) string {
	var said map[string]any
	if json.Unmarshal(r.Body, &said) != nil || len(said) != 1 {
		return ""
	}
	switch e := said["error"].(type) {
	case nil:
		return ""
	case string:
		return e
	}
	text, err := params.JSON(said["error"])
	if err != nil {
		return ""
	}
	return string(text)
}

func wordsOf(r *endpoint.Reply) (words, hint string) {
	text := http.StatusText(r.Status)
	switch said := akeylessError(r); {
	case said != "":
		return said, hintOf(r.Status, strings.ToLower(said))
	case r.Status >= 300 && r.Status < 400:
		return text + ", to " + r.Location, "requests hold credentials, so redirects are not followed: set akeylessGatewayURL to the address that answers"
	case len(r.Body) == 0 && r.Status >= 500:
		return text + ", without a body", ""
	case len(r.Body) == 0:
		return text + ", without a body", cmp.Or(hintOf(r.Status, ""), hintForeign)
	case r.Status == http.StatusBadRequest && strings.Contains(string(r.Body), "HTTP request to an HTTPS server"):
		return "it speaks TLS", "use https:// in the address"
	}
	words = fmt.Sprintf("%s, with a body that is not Akeyless' (%s, %d bytes)", text, contentType(r), len(r.Body))
	if r.Status >= 500 {
		return words, "" // of a proxy, while the gateway is unavailable
	}
	return words, hintForeign + "; akeylessGatewayURL must be the base of the v2 API, such as https://api.akeyless.io, or port 8081 or path /v2 of port 8080 of a gateway"
}

const hintForeign = "a proxy, ingress or firewall before the gateway may have answered, so this says nothing of the item"

func contentType(r *endpoint.Reply) string {
	if r.ContentType == "" {
		return "no content type"
	}
	return params.Clip(scrub(r.ContentType, nil))
}

func hintOf(status int, words string) string {
	switch {
	case strings.Contains(words, "unknown command"):
		return "akeylessGatewayURL must be the base of the v2 API"
	case status == http.StatusTooManyRequests:
		return "a rate limit of the gateway or of the account"
	}
	return ""
}

// credential matches texts that look like an Akeyless token.
var credential = regexp.MustCompile(`\b[tu]-[A-Za-z0-9_-]{16,}`)

func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, credential)
}
