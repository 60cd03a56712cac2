package endpoint

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// CheckSecond refuses a second address that cannot be one of the store at first.
func CheckSecond(first, second Address) error {
	switch {
	case second.IsZero():
	case second.SameServer(first):
		return errors.New("is the server of the first address too: name the other address of the store, or leave it out")
	case second.Plain() && !first.Plain():
		return errors.New("must be https as the first address is")
	}
	return nil
}

// OverBoth is Over for the targets of a store. What replaces the first has no second.
func (t Target) OverBoth(first, second Target) (Target, Target) {
	over := t.Over(first)
	if second.Address.IsZero() || over.Address != first.Address {
		return over, Target{}
	}
	return over, Target{TLS: t.TLS}.Over(second)
}

// GetPair returns the endpoints of a store; no second one if its target is zero.
func (p *Pool) GetPair(ctx context.Context, first, second Target, now time.Time) (pair Pair, err error) {
	if pair.First, err = p.Get(ctx, first, now); err != nil || second.Address.IsZero() {
		return pair, err
	}
	pair.Second, err = p.Get(ctx, second, now)
	return pair, err
}

// Pair is one store's endpoints: the second is asked while the first is away.
type Pair struct {
	First  *Endpoint
	Second *Endpoint // nil for none
}

// Do makes a call at the first endpoint and, if that is away, at the second. Only the lack of an
// answer, and the server's own word that it does not serve now, count as away: a denial or a missing
// secret is an answer, and so is a rate limit. A call that may have had an effect is not made twice.
// The first endpoint's circuit breaker decides how often it is tried meanwhile, and the first answer
// ends that.
//
// The error has a reason; the reply is set if there was one. The caller must release a reply without
// an error.
func (c *Client) Do(ctx context.Context, k Call) (*Reply, error) {
	r, err := c.at(ctx, k.Pair.First, k)
	if k.Pair.Second == nil {
		return r, err
	}
	if !isAway(err) {
		return r.from(k.Pair.First), err
	}
	r, second := c.at(ctx, k.Pair.Second, k)
	if isAway(second) {
		return nil, bothAway(err, second)
	}
	return r.from(k.Pair.Second), second
}

// End makes a call that ends something at the endpoint where that began. While it is away the other
// is asked too, whose success counts: both may lead to one server. A refusal of the other does not,
// because it may never have known of it.
func (c *Client) End(ctx context.Context, began Address, k Call) (*Reply, error) {
	if k.Pair.Second != nil && k.Pair.Second.Address == began {
		k.Pair.First, k.Pair.Second = k.Pair.Second, k.Pair.First
	}
	r, err := c.at(ctx, k.Pair.First, k)
	if k.Pair.Second == nil || !isAway(err) {
		return r, err
	}
	if r, other := c.at(ctx, k.Pair.Second, k); other == nil {
		return r, nil
	}
	return nil, err
}

// from records which endpoint answered.
func (r *Reply) from(e *Endpoint) *Reply {
	if r != nil {
		r.From = e.Address
	}
	return r
}

// bothAway names both endpoints, which the failures do.
func bothAway(first, second error) error {
	err := fault.New(fault.Of(first), "%w; and the second address: %w", first, second)
	err.RetryAfter, err.NotAsked = fault.RetryAfter(first), fault.NotAsked(first) && fault.NotAsked(second)
	if other := fault.RetryAfter(second); other > 0 && (err.RetryAfter <= 0 || other < err.RetryAfter) {
		err.RetryAfter = other
	}
	return err
}

// awayError marks the failure of an endpoint that is away.
type awayError struct{ error }

// Unwrap returns the failure.
func (e awayError) Unwrap() error { return e.error }

func isAway(err error) bool { return isA[awayError](err) }

// noteAway marks a failure by what it says about the server.
func noteAway(o Outcome, r *Reply, failure error) error {
	switch {
	case failure == nil, r != nil && r.Status == http.StatusTooManyRequests:
		return failure
	case o == Unreachable, o == Unanswered, o == Outage:
		return awayError{failure}
	}
	return failure
}
