package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

var errNoAnswer = errors.New("no answer in time")

// credential looks like a Vault token.
var credential = regexp.MustCompile(`\b(hv[sbr]\.[A-Za-z0-9_-]{8,}|[sb]\.[A-Za-z0-9]{24,})`)

// Refusal is Vault's own answer with a status other than 2xx. It is in the chain of such an error.
type Refusal struct {
	Status int
	Words  string
}

// Error is Vault's text.
func (r *Refusal) Error() string { return fmt.Sprintf("%d %s", r.Status, r.Words) }

// Says reports whether an error is a Refusal with this text in it, ignoring case.
func Says(err error, status int, words string) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status == status && strings.Contains(strings.ToLower(r.Words), strings.ToLower(words))
}

// classify returns an error for an unsuccessful answer.
func classify(r Request, a endpoint.Address, response *http.Response, body []byte) error {
	words, own := ownWords(body)
	words = endpoint.Scrub(words, append(r.Secrets, r.Token), credential)
	status := response.StatusCode
	switch {
	case status < http.StatusBadRequest:
		return fault.New(fault.Unavailable, "%s redirected the request with status %d", a, status).
			WithHint("a standby does that where it does not forward requests: list the addresses of all servers in --vault-addr")
	case !own && status < http.StatusInternalServerError:
		return fault.New(fault.BadAnswer, "%s answered %d %s, in words that are not Vault's", a, status, http.StatusText(status)).
			WithHint("a proxy before Vault may have answered; is this the address of a Vault server?")
	case words == "":
		words = http.StatusText(status)
	}
	failure := fault.New(reasonOf(status), "%s answered: %w", a, &Refusal{status, words})
	failure.RetryAfter = backoff.ParseRetryAfter(response.Header.Get("Retry-After"), time.Now())
	if status == http.StatusServiceUnavailable && strings.Contains(words, "sealed") {
		return failure.WithHint("unseal this server")
	}
	return failure
}

func ownWords(body []byte) (string, bool) {
	var said struct{ Errors *[]string }
	if json.Unmarshal(body, &said) != nil || said.Errors == nil {
		return "", false
	}
	return strings.TrimSpace(strings.Join(*said.Errors, "; ")), true
}

func reasonOf(status int) fault.Reason {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fault.Denied
	case status == http.StatusNotFound:
		return fault.NotFound
	case status == http.StatusTooManyRequests:
		return fault.RateLimited
	case status == http.StatusPreconditionFailed, status >= http.StatusInternalServerError:
		return fault.Unavailable
	}
	return fault.Rejected
}

// elsewhere reports whether another server may answer differently: this one is unavailable, or it
// is a standby without the newest version yet.
func elsewhere(err error) bool {
	return fault.Of(err).Outage() || Says(err, http.StatusBadRequest, "version is too new") || Says(err, http.StatusBadRequest, "higher than the latest key version")
}

// explain converts the error of a failed exchange.
func (c *Client) explain(ctx context.Context, e *endpoint.Endpoint, r Request, err error) error {
	if ctx.Err() != nil {
		return fault.New(fault.Of(ctx.Err()), "asking %s: %w", e.Address, context.Cause(ctx))
	}
	return e.Explain(err, names(), func(words string) string { return endpoint.Scrub(words, append(r.Secrets, r.Token), credential) })
}
