package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

const (
	// maxShort bounds the answers without secret values, in bytes: they are about a token, a lease
	// or a version.
	maxShort = 256 << 10
	// aheadOfIssue is how many bytes are charged for a credential before the request, because the
	// credential exists in the store when the answer comes.
	aheadOfIssue = 64 << 10
	longestPause = 4 * time.Second // between two tries
)

// errNoAnswer is the cause when one attempt times out.
var errNoAnswer = errors.New("no answer in time")

// Client makes the requests of a provider. It applies the same rules for time, memory, retries and
// the circuit breaker to every store.
type Client struct {
	Settings *Settings
	Pool     *Pool
}

// Call is one request to a store. Pair, Send, Refusal and Scrub must be set.
type Call struct {
	Pair      Pair
	Operation Operation
	// Caller is the tenant for which the circuit breaker counts failures of the call.
	Caller Caller
	// Correlation identifies the request in the store's own log; may be empty.
	Correlation string
	// Issues says that the request may create something in the store, so Do repeats it only if it
	// certainly had no effect.
	Issues bool
	// Reads says that the answer may be as large as the operator allows.
	Reads bool
	// Owner is charged for the answer. It is zero for a call that must work in any case, such as
	// revoking a credential.
	Owner budget.Owner
	// Patience is how long the answer may take; 0 means Settings.RequestTimeout.
	Patience time.Duration

	// Send makes one exchange with an endpoint. It follows redirects itself or not at all.
	Send func(context.Context, *Endpoint) (*http.Response, error)
	// Refusal returns the error for an answer with a status other than 2xx.
	Refusal func(*Endpoint, *Reply) error
	// Repeat reports whether the same request may succeed a moment later; nil for never. A call
	// that Issues is repeated only after an answer that says that it had no effect.
	Repeat func(*Reply) bool
	// Outcome says what a response means for the server; nil means only that it answered. failure is the
	// error of Refusal.
	Outcome func(r *Reply, failure error) Outcome
	// Scrub removes secrets from a text.
	Scrub func(words string) string

	endpoint *Endpoint // of the pair
}

// Reply is an answer, good or bad.
type Reply struct {
	// From is the address that answered, if the store has two.
	From        Address
	Status      int
	ContentType string
	Location    string
	RetryAfter  time.Duration
	Body        []byte
	// Charge is for the body. The caller calls Release when it no longer needs the body.
	Charge *budget.Charge
}

// Server is From, or the only address of the store.
func (r *Reply) Server(only Address) Address {
	if r.From.IsZero() {
		return only
	}
	return r.From
}

// SpeaksTLS recognises Go's answer to plain HTTP on a TLS port.
func (r *Reply) SpeaksTLS() bool {
	return r.Status == http.StatusBadRequest && bytes.Contains(r.Body, []byte("HTTP request to an HTTPS server"))
}

// The words and the hint of an error for an answer that SpeaksTLS.
const (
	WordsTLS = "it speaks TLS"
	HintTLS  = "use https:// in the address"
)

// Release ends the charge for the body. It is safe on nil.
func (r *Reply) Release() {
	if r != nil {
		r.Charge.Release()
	}
}

func (r *Reply) retryAfter() time.Duration {
	if r == nil {
		return 0
	}
	return r.RetryAfter
}

// Refused returns an error for an answer. words are the server's, without secrets.
func (r *Reply) Refused(by *Endpoint, reason fault.Reason, words string) *fault.Error {
	f := fault.New(reason, "%s answered %d: %s", by.Address, r.Status, words)
	f.RetryAfter = r.RetryAfter
	return f
}

// at makes the call at one endpoint of its pair, and repeats it if that is safe and may help. If
// there is another endpoint, it does not repeat the call at one that is away.
func (c *Client) at(ctx context.Context, e *Endpoint, k Call) (*Reply, error) {
	k.endpoint = e
	s, breaker := c.Settings, &e.Breaker
	for n := 0; ; n++ {
		if err := breaker.Admit(s.Now(), s.Jitter(), k.Caller); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Address, err)
		}
		r, err, failure := c.traced(ctx, k, n)
		outcome := said(ctx, k, r, err, failure)
		noted := noteAway(outcome, r, failure)
		if breaker.Record(s.Now(), outcome, k.Caller, r.retryAfter(), noted) {
			s.OnReturn()
		}
		if failure == nil {
			return r, nil
		}
		r.Release()
		moved := k.Pair.Second != nil && isAway(noted) && (outcome == Outage || k.again(r, err) || !k.Issues || k.Operation == OpLogin)
		if moved {
			failure = noted
		}
		wait := max(backoff.Delay(s.RetryBase, longestPause, n, s.Jitter()), r.retryAfter())
		if moved || n >= s.MaxRetries || !k.again(r, err) || !backoff.WorthWaiting(ctx, wait) || backoff.Sleep(ctx, wait) != nil {
			breaker.Advise(failure, s.Now(), k.Caller)
			return r, failure
		}
	}
}

// traced makes the request once, in a span of its own. failure is what is wrong with
// the answer, or err.
func (c *Client) traced(ctx context.Context, k Call, n int) (r *Reply, err, failure error) { //nolint:revive // two errors: what happened, and what it means
	ctx, span := trace.Request(ctx, string(k.Operation))
	r, err = c.attempt(ctx, k)
	failure = c.check(ctx, k, r, err)
	x := trace.Exchange{Host: k.endpoint.Address.host, Port: k.endpoint.Address.port, Correlation: k.Correlation, Again: n}
	if err == nil {
		x.Status = r.Status
	}
	span.Exchange(x)
	span.End(failure)
	return r, err, failure
}

// again reports whether repeating the call is safe and may help.
func (k *Call) again(r *Reply, err error) bool {
	switch {
	case err != nil && hopeless(err):
		return false
	case err != nil:
		return !k.Issues || NeverSent(err)
	}
	return k.Repeat != nil && k.Repeat(r)
}

// attempt makes the request once.
func (c *Client) attempt(ctx context.Context, k Call) (*Reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience(k), errNoAnswer)
	defer cancel()
	charge, err := c.charge(k)
	if err != nil {
		return nil, err
	}
	began, status := time.Now(), 0
	r, err := c.exchange(ctx, k, charge)
	if err == nil {
		status = r.Status
	}
	c.Settings.OnRequest(k.Operation, status, time.Since(began))
	if err != nil {
		charge.Release()
		if ctx.Err() != nil { // the attempt timed out, or the caller's context ended
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return r, nil
}

func (c *Client) exchange(ctx context.Context, k Call, charge *budget.Charge) (*Reply, error) {
	resp, err := k.Send(ctx, k.endpoint)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	Bound(resp, c.limit(k))
	body, err := ReadBody(resp, charge)
	if err != nil {
		return nil, err
	}
	return &Reply{
		Status: resp.StatusCode, ContentType: resp.Header.Get("Content-Type"), Location: resp.Header.Get("Location"),
		RetryAfter: backoff.ParseRetryAfter(resp.Header.Get("Retry-After"), c.Settings.Now()), Body: body, Charge: charge,
	}, nil
}

func (c *Client) patience(k Call) time.Duration { return max(k.Patience, c.Settings.RequestTimeout) }

func (c *Client) limit(k Call) int64 {
	if k.Reads {
		return c.Settings.MaxResponseBytes
	}
	return min(maxShort, c.Settings.MaxResponseBytes)
}

// charge charges for the answer to a call.
func (c *Client) charge(k Call) (*budget.Charge, error) {
	switch {
	case k.Owner == budget.Owner{}:
		return nil, nil
	case k.Issues && k.Reads:
		return c.Settings.Budget.Acquire(k.Owner, budget.Answers, aheadOfIssue)
	}
	return c.Settings.Budget.Acquire(k.Owner, budget.Answers, Ahead)
}

// check returns an error for everything but a useful answer.
func (c *Client) check(ctx context.Context, k Call, r *Reply, err error) error {
	var already *fault.Error
	at := k.endpoint.Address
	switch {
	case err == nil && r.Status/100 == 2:
		return nil
	case err == nil:
		return k.Refusal(k.endpoint, r)
	case errors.As(err, &already):
		return fault.New(already.Reason, "%s: %w", at, already)
	case errors.Is(err, errNoAnswer):
		return fault.New(fault.Timeout, "%s gave no answer within %s", at, c.patience(k))
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for %s: %w", at, fault.Ended(ctx))
	case errors.Is(err, ErrTooLarge):
		return fault.New(fault.TooLarge, "the answer of %s is larger than %d bytes", at, c.limit(k))
	}
	return k.endpoint.Explain(err, c.Pool.Names, k.Scrub)
}

// hopeless reports whether another attempt would fail alike.
func hopeless(err error) bool {
	return errors.Is(err, ErrTooLarge) || isA[*fault.Error](err) || BadTLS(err) || errors.Is(err, context.Canceled)
}

// said tells the circuit breaker what an attempt says about the server.
func said(ctx context.Context, k Call, r *Reply, err, failure error) Outcome {
	switch {
	case err != nil && (ctx.Err() != nil || hopeless(err) && !BadTLS(err)):
		return LocalFailure
	case err != nil && notConnected(err):
		return Unreachable
	case err != nil:
		return Unanswered
	case k.Outcome == nil:
		return Answered
	}
	return k.Outcome(r, failure)
}
