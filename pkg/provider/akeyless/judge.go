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

// errUnauthorized marks an answer with status 401: the Akeyless token may be
// over, so that a new login can help.
var errUnauthorized = errors.New("unauthorized")

// judge makes an error of everything but a useful answer. The answer is not
// quoted where it is not Akeyless' own error, since it could hold anything.
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

// unauthorized is an error that matches errUnauthorized, and reads as before.
type unauthorized struct{ error }

func (u unauthorized) Unwrap() error      { return u.error }
func (unauthorized) Is(target error) bool { return target == errUnauthorized }

// reasonOf goes by the status, but for what Akeyless says with one that fits
// as badly as 500 for an item that there is not. A denial, a missing item and a
// wrong request count only with Akeyless' own words: a proxy may answer so to
// all while the gateway is away.
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

// saysWhy tells whether the answer is an error in Akeyless' form: a JSON object
// of one field, error. Proxies say more, or use other names.
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
		return words, "" // a proxy's, while the gateway is away
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

// credential matches what looks like an Akeyless token.
var credential = regexp.MustCompile(`\b[tu]-[A-Za-z0-9_-]{16,}`)

func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, credential)
}

// checkObject refuses what is no JSON object, of which values can be taken.
func checkObject(r *endpoint.Reply, at endpoint.Address) error {
	if json.Valid(r.Body) && (params.IsObject(r.Body) || strings.TrimSpace(string(r.Body[:min(len(r.Body), 64)])) == "null") {
		return nil
	}
	return notJSON(r, at)
}

func notJSON(r *endpoint.Reply, at endpoint.Address) error {
	return fault.New(fault.BadAnswer, "the answer of %s is not Akeyless' JSON (%s, %d bytes)", at, contentType(r), len(r.Body)).
		WithHint("is this the address of an Akeyless gateway?")
}

// decode reads a good answer.
func decode(r *endpoint.Reply, at endpoint.Address, into any) error {
	if err := params.Decode(r.Body, into); err != nil {
		return notJSON(r, at)
	}
	return nil
}
