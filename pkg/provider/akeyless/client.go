package akeyless

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// errNoAnswer is the cause of the end of one attempt.
var errNoAnswer = errors.New("no answer in time")

// call is one request: a POST of a JSON object, in which the credential is.
type call struct {
	endpoint *endpoint.Endpoint
	path     string
	body     map[string]any
	// about is what the request is for, so that the circuit breaker can tell
	// one broken producer from a broken gateway.
	about string
	// tenant is the Kubernetes namespace of the pod.
	tenant string
	// mints tells that repeating the request may leave something behind in
	// the store, so it is only repeated when it had no effect for sure.
	mints bool
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

const (
	// maxShort bounds the answers that hold no value.
	maxShort = 256 << 10
	// aheadOfMint is charged for a credential before it is asked for, since the
	// store has made it when its answer comes.
	aheadOfMint = 64 << 10
)

func (p *Provider) limit(k call) int64 {
	if k.reads {
		return p.config.MaxResponseBytes
	}
	return min(maxShort, p.config.MaxResponseBytes)
}

// charge is for the answer to a call.
func (p *Provider) charge(k call) (*budget.Charge, error) {
	switch {
	case k.owner == budget.Owner{}:
		return nil, nil
	case k.mints:
		return p.config.Budget.Acquire(k.owner, budget.Answers, aheadOfMint)
	}
	return p.config.Budget.Acquire(k.owner, budget.Answers, endpoint.Ahead)
}

// reply is an answer, good or bad.
type reply struct {
	status      int
	contentType string
	retryAfter  time.Duration
	location    string
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

// do makes the call, again where that is safe and may help. The error carries
// a fault.Reason; the reply comes along where there was one. One without an
// error has to be released.
func (p *Provider) do(ctx context.Context, k call) (*reply, error) {
	body, err := json.Marshal(k.body)
	if err != nil {
		return nil, fault.New(fault.Internal, "writing the request to %s", k.path)
	}
	post := func(ctx context.Context) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, k.endpoint.Address.URL(k.path).String(), bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		return r, nil
	}
	return p.repeat(ctx, exchange{call: k, request: post, judge: p.judge})
}

// exchange is a call together with how to make the request and understand a
// bad answer, which differs between Akeyless and the clouds.
type exchange struct {
	call
	request func(context.Context) (*http.Request, error)
	judge   func(k call, r *reply) error
}

func (p *Provider) repeat(ctx context.Context, x exchange) (*reply, error) {
	caller := session.Caller{Tenant: x.tenant, Place: x.about}
	for n := 0; ; n++ {
		if err := x.endpoint.Breaker.Admit(p.now(), p.config.Jitter(), caller); err != nil {
			return nil, err
		}
		r, err := p.attempt(ctx, x)
		failure := err
		if err == nil {
			failure = x.judge(x.call, r)
		} else {
			failure = p.explain(ctx, x.call, err)
		}
		after := time.Duration(0)
		if r != nil {
			after = r.retryAfter
		}
		x.endpoint.Breaker.Record(p.now(), outcomeOf(ctx, r, err, failure), caller, after, failure)
		if failure == nil {
			return r, nil
		}
		r.release()
		wait := session.Pause(p.config.RetryBase, n, after, p.config.Jitter())
		if n >= p.config.MaxRetries || !again(x.call, r, err) || !session.WorthWaiting(ctx, wait) || session.Sleep(ctx, wait) != nil {
			x.endpoint.Breaker.Advise(failure, p.now(), p.config.Jitter(), caller)
			return r, failure
		}
	}
}

// attempt makes one exchange. Redirects are not followed, because the body
// holds a credential.
func (p *Provider) attempt(ctx context.Context, x exchange) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, max(x.patience, p.config.RequestTimeout), errNoAnswer)
	defer cancel()
	charge, err := p.charge(x.call)
	if err != nil {
		return nil, err
	}
	r, err := p.exchange(ctx, x, charge)
	if err != nil {
		charge.Release()
		return nil, withCause(ctx, err)
	}
	r.charge = charge
	return r, nil
}

func (p *Provider) exchange(ctx context.Context, x exchange, charge *budget.Charge) (*reply, error) {
	request, err := x.request(ctx)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", p.config.UserAgent)
	request.Header.Set("Accept", "application/json")
	resp, err := x.endpoint.Transport().RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	endpoint.Bound(resp, p.limit(x.call))
	body, err := endpoint.ReadBody(resp, charge)
	if err != nil {
		return nil, err
	}
	return &reply{
		status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), location: resp.Header.Get("Location"),
		retryAfter: session.ParseRetryAfter(resp.Header.Get("Retry-After"), p.now()), body: body,
	}, nil
}

// withCause tells an attempt's own timeout from the caller's end.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// hopeless tells that another attempt would end alike.
func hopeless(err error) bool {
	var f *fault.Error
	return errors.Is(err, endpoint.ErrTooLarge) || errors.As(err, &f) || endpoint.BadTLS(err) || errors.Is(err, context.Canceled)
}

// again tells whether repeating the call is safe and may help.
func again(k call, r *reply, err error) bool {
	switch {
	case err != nil && hopeless(err):
		return false
	case err != nil:
		return !k.mints || endpoint.NeverSent(err)
	case r.status == http.StatusTooManyRequests, r.status == http.StatusServiceUnavailable:
		return true // turned away before it had an effect
	}
	return !k.mints && r.status >= 500 && !saysWhy(r)
}

// outcomeOf tells the circuit breaker what an exchange says of the server.
func outcomeOf(ctx context.Context, r *reply, err, failure error) session.Outcome {
	switch {
	case err != nil && (ctx.Err() != nil || hopeless(err) && !endpoint.BadTLS(err)):
		return session.NothingSaid
	case err != nil && endpoint.Unreachable(err):
		return session.Unreachable
	case err != nil:
		return session.Unanswered
	case r.status >= 500 && saysWhy(r) && !turnedAway(r.status):
		return session.BrokenPlace
	case failure == nil, !fault.Of(failure).Outage():
		return session.Answered
	case r.status == http.StatusTooManyRequests, r.status == http.StatusServiceUnavailable && saysWhy(r):
		return session.Outage
	}
	return session.Unanswered // a proxy's word, which may be about the item alone
}

func turnedAway(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
