package akeyless

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// errUnauthorized marks an answer with status 401: the Akeyless token may have expired, so
// a new login may help.
var errUnauthorized = errors.New("unauthorized")

// refusal returns the error for an answer with a status other than 2xx. It quotes only an
// error in Akeyless' own form: any other text may contain anything.
func refusal(e *endpoint.Endpoint, r *endpoint.Reply, secrets []secret.String) error {
	words, hint := wordsOf(r)
	words = scrub(words, secrets)
	reason := reasonOf(r, words)
	f := r.Refused(e, reason, words)
	if reason == fault.Denied && r.Status == http.StatusUnauthorized {
		f.Err = unauthorized{f.Err}
	}
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
	case r.SpeaksTLS():
		return endpoint.WordsTLS, endpoint.HintTLS
	}
	words = fmt.Sprintf("%s, with a body that is not Akeyless' (%s)", text, shape(r))
	if r.Status >= 500 {
		return words, "" // of a proxy, while the gateway is unavailable
	}
	return words, hintForeign + "; akeylessGatewayURL must be the base of the v2 API, such as https://api.akeyless.io, or port 8081 or path /v2 of port 8080 of a gateway"
}

const hintForeign = "a proxy, ingress or firewall before the gateway may have answered, so this says nothing of the item"

func hintOf(status int, words string) string {
	switch {
	case strings.Contains(words, "unknown command"):
		return "akeylessGatewayURL must be the base of the v2 API"
	case status == http.StatusTooManyRequests:
		return "a rate limit of the gateway or of the account"
	}
	return ""
}

func shape(r *endpoint.Reply) string {
	return endpoint.Shape(r.ContentType, len(r.Body), credential)
}

// credential matches texts that look like an Akeyless token.
var credential = regexp.MustCompile(`\b[tu]-[A-Za-z0-9_-]{16,}`)

func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, credential)
}

// again reports whether repeating a request is safe and may help; issues says that it creates
// something.
func again(r *endpoint.Reply, issues bool) bool {
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true // refused before it had an effect
	}
	return !issues && r.Status >= 500 && !saysWhy(r)
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
