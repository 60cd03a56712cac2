package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// errNoAnswer is the cause of the end of one attempt.
var errNoAnswer = errors.New("no answer in time")

// withCause tells an attempt's own timeout from the caller's end.
func withCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// judge makes an error of everything but a useful answer. The answer itself
// is not quoted where it is not Vault's, since it could hold anything.
func (c *client) judge(ctx context.Context, k call, r *reply, err error) error {
	if err != nil {
		return c.judgeFailure(ctx, k, err)
	}
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	words, hint := wordsOf(r)
	f := fault.New(reasonOfStatus(r.status), "%s answered %d: %s", k.endpoint.Address, r.status, scrub(words, k.secrets))
	f.RetryAfter = r.retryAfter
	if hint == "" {
		hint = hintOfStatus(r.status, words)
	}
	return f.WithHint("%s", hint)
}

func reasonOfStatus(status int) fault.Reason {
	switch {
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fault.Denied
	case status == http.StatusNotFound:
		return fault.NotFound
	case status == http.StatusTooManyRequests:
		return fault.RateLimited
	case mayPass(status), status == 473: // 473: a performance standby
		return fault.Unavailable
	case status >= 400 && status < 500, status == http.StatusNotImplemented:
		return fault.Rejected
	}
	return fault.BadAnswer
}

func hintOfStatus(status int, words string) string {
	words = strings.ToLower(words)
	switch {
	case strings.Contains(words, "vault is sealed"):
		return "somebody must unseal it; mounted volumes keep their content until then"
	case status == http.StatusNotImplemented, strings.Contains(words, "not initialized"):
		return "the server is not initialised"
	case status == http.StatusTooManyRequests:
		return "a rate limit quota of the server; it counts by client address, which all pods of a node share, unless it is set otherwise"
	case status == http.StatusMethodNotAllowed, strings.Contains(words, "unsupported operation"):
		return "the path does not take this method; certificates and the like need method: POST"
	}
	return ""
}

// wordsOf finds what Vault said in its own list of errors and warnings.
func wordsOf(r *reply) (words, hint string) {
	var said struct {
		Errors   []any
		Warnings []string
	}
	if json.Unmarshal(r.body, &said) == nil && (said.Errors != nil || said.Warnings != nil) {
		var list []string
		for _, e := range said.Errors {
			list = append(list, fmt.Sprint(e))
		}
		list = append(list, said.Warnings...)
		if text := strings.TrimSpace(strings.Join(list, "; ")); text != "" {
			return text, ""
		}
		return http.StatusText(r.status), ""
	}
	if r.status == http.StatusBadRequest && strings.Contains(string(r.body), "HTTP request to an HTTPS server") {
		return "it speaks TLS", "use https:// in the address"
	}
	if len(r.body) == 0 {
		return http.StatusText(r.status) + ", without a body", ""
	}
	return fmt.Sprintf("%s, with a body that is not Vault's (%s, %d bytes)", http.StatusText(r.status), describeType(r.contentType), len(r.body)),
		"is this the address of a Vault server, or of a proxy before it?"
}

func describeType(contentType string) string {
	if contentType == "" {
		return "no content type"
	}
	return params.Clip(scrub(contentType, nil))
}

func (c *client) judgeFailure(ctx context.Context, k call, err error) error {
	var already *fault.Error
	at := k.endpoint.Address
	switch {
	case errors.As(err, &already):
		return fault.New(already.Reason, "%s: %w", at, already)
	case errors.Is(err, errNoAnswer):
		return fault.New(fault.Timeout, "%s gave no answer within %s", at, c.config.RequestTimeout)
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for %s: %w", at, session.Ended(ctx))
	case errors.Is(err, endpoint.ErrTooLarge):
		return fault.New(fault.TooLarge, "the answer of %s is larger than %d bytes", at, c.config.MaxResponseBytes)
	}
	return k.endpoint.Explain(err, c.names, func(words string) string { return scrub(words, k.secrets) })
}

// hopeless tells that another attempt would end alike.
func hopeless(err error) bool {
	var f *fault.Error
	return errors.Is(err, endpoint.ErrTooLarge) || errors.As(err, &f) || endpoint.BadTLS(err) || errors.Is(err, context.Canceled)
}

// outcomeOf tells the circuit breaker what a request says about the server.
func outcomeOf(ctx context.Context, k call, r *reply, err, failure error) session.Outcome {
	switch {
	case err != nil && (ctx.Err() != nil || hopeless(err)):
		return session.NothingSaid
	case err != nil:
		return session.Outage
	case refusedRenewal(k, r):
		return session.NothingSaid
	case r.status == http.StatusInternalServerError && json.Valid(r.body):
		return session.BrokenPlace
	case r.status == http.StatusPreconditionFailed:
		return session.NothingSaid
	case fault.Of(failure).Outage() && failure != nil:
		return session.Outage
	}
	return session.Answered
}

// refusedRenewal tells that Vault does not renew something. It says so with
// status 500, for instance "past the max TTL, cannot renew".
func refusedRenewal(k call, r *reply) bool {
	return k.renews && r != nil && r.status == http.StatusInternalServerError && json.Valid(r.body)
}

// credential matches what looks like a Vault token.
var credential = regexp.MustCompile(`\b(hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}`)

// scrub takes out credentials that a server repeats, and what would break a
// line.
func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, credential)
}
