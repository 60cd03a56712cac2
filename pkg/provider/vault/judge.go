package vault

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// refusal returns the error for an answer with a status other than 2xx. It quotes an answer
// only if it is Vault's own: any other text may contain anything.
func refusal(e *endpoint.Endpoint, r *endpoint.Reply, renews bool, secrets []secret.String) error {
	v := verdictOf(r)
	reason := reasonOfStatus(r.Status, v)
	if renews && saysFailed(r) {
		reason = fault.Rejected
	}
	return r.Refused(e, reason, scrub(v.words, secrets)).WithHint("%s", cmp.Or(hintOfStatus(r.Status, v.words), v.hint))
}

// The statuses of Vault's replicas. No other server uses them.
const (
	statusDRSecondary        = 472
	statusPerformanceStandby = 473
)

// reasonOfStatus returns a denial, a missing secret or a wrong request only if the text is
// Vault's own. A proxy may return the same status for every request while Vault is
// unavailable.
func reasonOfStatus(status int, v verdict) fault.Reason {
	switch {
	case status == http.StatusTooManyRequests:
		return fault.RateLimited
	case mayPass(status), status == http.StatusNotImplemented, status == statusDRSecondary, status == statusPerformanceStandby, v.own && saysNotNow(v.words):
		return fault.Unavailable
	case status < 400 || status >= 500, !v.own && v.words != endpoint.WordsTLS:
		return fault.BadAnswer
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fault.Denied
	case status == http.StatusNotFound:
		return fault.NotFound
	}
	return fault.Rejected
}

// saysNotNow recognises Vault's answers with status 400 while it cannot serve: as a
// replica for disaster recovery, and shortly after an engine was mounted as, or upgraded
// to, KV version 2.
func saysNotNow(words string) bool {
	words = strings.ToLower(words)
	for _, phrase := range []string{"dr secondary", "upgrading from non-versioned", "waiting for the primary to upgrade"} {
		if strings.Contains(words, phrase) {
			return true
		}
	}
	return false
}

func hintOfStatus(status int, words string) string {
	words = strings.ToLower(words)
	switch {
	case strings.Contains(words, "vault is sealed"):
		return "an operator must unseal it; mounted volumes keep their content until then"
	case status == http.StatusNotImplemented, strings.Contains(words, "not initialized"):
		return "the server is not initialised"
	case status == statusDRSecondary, strings.Contains(words, "dr secondary"):
		return "a replica for disaster recovery serves no clients: the address must lead to the primary, or this replica be promoted"
	case status == statusPerformanceStandby:
		return "a performance standby that does not serve requests now: its health check must keep it out of the load balancer"
	case status == http.StatusTooManyRequests:
		return "a rate limit quota of the server; it counts by client address, which all pods of a node share, unless it is set otherwise"
	case status == http.StatusMethodNotAllowed, strings.Contains(words, "unsupported operation"):
		return "the path does not take this method; certificates and the like need method: POST"
	case strings.Contains(words, wordsLastUse):
		return session.HintUses
	}
	return ""
}

// outcomeOf returns what an answer means for the circuit breaker.
func outcomeOf(r *endpoint.Reply, failure error, renews bool) endpoint.Outcome {
	switch {
	case renews && saysFailed(r):
		return endpoint.LocalFailure
	case saysFailed(r):
		return endpoint.BrokenPath
	case r.Status == http.StatusPreconditionFailed:
		return endpoint.LocalFailure
	case failure == nil, !fault.Of(failure).Outage():
		return endpoint.Answered
	case r.Status == http.StatusTooManyRequests, r.Status == http.StatusServiceUnavailable && json.Valid(r.Body), r.Status == statusPerformanceStandby, r.Status == statusDRSecondary:
		return endpoint.Outage
	}
	return endpoint.Unanswered // of a proxy, and perhaps for this path only
}

// saysFailed reports whether Vault itself answers with status 500. To a renewal that is a refusal,
// such as "past the max TTL, cannot renew".
func saysFailed(r *endpoint.Reply) bool {
	return r.Status == http.StatusInternalServerError && json.Valid(r.Body)
}

// mayRepeat reports whether to send a request once more after the answer. One that may create a
// credential must have had no effect.
func mayRepeat(r *endpoint.Reply, renews, issues bool) bool {
	return mayPass(r.Status) && !(renews && saysFailed(r)) && (!issues || untouched(r.Status))
}

// mayPass reports whether the same request may soon succeed.
func mayPass(status int) bool {
	switch {
	case status == http.StatusPreconditionFailed, status == http.StatusTooManyRequests:
		return true
	case status == http.StatusNotImplemented:
		return false
	}
	return status >= 500
}

// untouched reports whether the request was refused before it had an effect: no active
// node, a quota, a replica that is behind.
func untouched(status int) bool {
	switch status {
	case http.StatusPreconditionFailed, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	}
	return false
}
