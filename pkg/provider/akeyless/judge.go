package akeyless

import (
	"cmp"
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
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// errUnauthorized marks an answer with status 401: the Akeyless token may be
// over, so that a new login can help.
var errUnauthorized = errors.New("unauthorized")

// judge makes an error of everything but a useful answer. The answer is not
// quoted where it is not Akeyless' own error, since it could hold anything.
func (p *Provider) judge(k call, r *reply) error {
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	words, hint := wordsOf(r)
	words = scrub(words, k.secrets)
	reason := reasonOf(r, words)
	f := fault.New(reason, "%s answered %d: %s", k.endpoint.Address, r.status, words)
	if reason == fault.Denied && r.status == http.StatusUnauthorized {
		f.Err = unauthorized{f.Err}
	}
	f.RetryAfter = r.retryAfter
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
func reasonOf(r *reply, words string) fault.Reason {
	words = strings.ToLower(words)
	switch {
	case r.status >= 300 && r.status < 400:
		return fault.BadAnswer
	case r.status == http.StatusTooManyRequests:
		return fault.RateLimited
	case r.status >= 400 && saysWhy(r) && saysMissing(words):
		return fault.NotFound
	case r.status >= 500:
		return fault.Unavailable
	case !saysWhy(r):
		return fault.BadAnswer
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		return fault.Denied
	case r.status == http.StatusNotFound:
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
func saysWhy(r *reply) bool { return akeylessError(r) != "" }

func akeylessError(r *reply) string {
	var said map[string]any
	if json.Unmarshal(r.body, &said) != nil || len(said) != 1 {
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

func wordsOf(r *reply) (words, hint string) {
	text := http.StatusText(r.status)
	switch said := akeylessError(r); {
	case said != "":
		return said, hintOf(r.status, strings.ToLower(said))
	case r.status >= 300 && r.status < 400:
		return text + ", to " + r.location, "requests hold credentials, so redirects are not followed: set akeylessGatewayURL to the address that answers"
	case len(r.body) == 0 && r.status >= 500:
		return text + ", without a body", ""
	case len(r.body) == 0:
		return text + ", without a body", cmp.Or(hintOf(r.status, ""), hintForeign)
	case r.status == http.StatusBadRequest && strings.Contains(string(r.body), "HTTP request to an HTTPS server"):
		return "it speaks TLS", "use https:// in the address"
	}
	words = fmt.Sprintf("%s, with a body that is not Akeyless' (%s, %d bytes)", text, contentType(r), len(r.body))
	if r.status >= 500 {
		return words, "" // a proxy's, while the gateway is away
	}
	return words, hintForeign + "; akeylessGatewayURL must be the base of the v2 API, such as https://api.akeyless.io, or port 8081 or path /v2 of port 8080 of a gateway"
}

const hintForeign = "a proxy, ingress or firewall before the gateway may have answered, so this says nothing of the item"

func contentType(r *reply) string {
	if r.contentType == "" {
		return "no content type"
	}
	return params.Clip(scrub(r.contentType, nil))
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

// explain makes an error of an exchange that brought no answer.
func (p *Provider) explain(ctx context.Context, k call, err error) error {
	var already *fault.Error
	at := k.endpoint.Address
	switch {
	case errors.As(err, &already):
		return fault.New(already.Reason, "%s: %w", at, already)
	case errors.Is(err, errNoAnswer):
		return fault.New(fault.Timeout, "%s gave no answer within %s", at, max(k.patience, p.config.RequestTimeout))
	case ctx.Err() != nil:
		return fault.New(fault.Of(ctx.Err()), "waiting for %s: %w", at, context.Cause(ctx))
	case errors.Is(err, endpoint.ErrTooLarge):
		return fault.New(fault.TooLarge, "the answer of %s is larger than %d bytes", at, p.limit(k))
	}
	return k.endpoint.Explain(err, settingNames(), func(words string) string { return scrub(words, k.secrets) })
}

// credentialPattern matches what looks like an Akeyless token.
const credentialPattern = `\b[tu]-[A-Za-z0-9_-]{16,}`

func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, regexp.MustCompile(credentialPattern))
}

// checkObject refuses what is no JSON object, of which values can be taken.
func checkObject(r *reply, at endpoint.Address) error {
	if json.Valid(r.body) && (params.IsObject(r.body) || strings.TrimSpace(string(r.body[:min(len(r.body), 64)])) == "null") {
		return nil
	}
	return notJSON(r, at)
}

func notJSON(r *reply, at endpoint.Address) error {
	return fault.New(fault.BadAnswer, "the answer of %s is not Akeyless' JSON (%s, %d bytes)", at, contentType(r), len(r.body)).
		WithHint("is this the address of an Akeyless gateway?")
}

// decode reads a good answer.
func decode(r *reply, at endpoint.Address, into any) error {
	if err := params.Decode(r.body, into); err != nil {
		return notJSON(r, at)
	}
	return nil
}
