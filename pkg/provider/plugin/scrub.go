package plugin

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// maxWords bounds a provider's text in an error, in bytes.
	maxWords = 2048
	// leastSecret is the shortest text that is taken for a secret: to look
	// for shorter ones would tear ordinary words apart.
	leastSecret = 4
	// quotings is how often a text may have been quoted.
	quotings = 3
	// longestQuoted bounds the work on that, in bytes.
	longestQuoted = 16 << 10
	// unquoted is what no quoting changes.
	unquoted = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/=:"
)

// credential matches what looks like a JWT, or the beginning of one, and
// private keys.
var credential = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*` +
	`|(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)

// scrubber takes out of a provider's texts what the provider was sent in
// confidence: the service account tokens, whole and in their parts, and the
// secrets of the nodePublishSecretRef. It does the work when there is a text,
// which for a call that goes well there is not.
type scrubber struct{ request *provider.Request }

// text is a provider's text that can be shown: without secrets, in one line
// and not too long. What looks like a token that was cut off is taken out
// before the parts of tokens are, which would hide what it was.
func (s scrubber) text(words string) string {
	var whole, parts []string
	for _, token := range s.request.Tokens {
		whole = append(whole, token.JWT.Reveal())
		parts = append(parts, strings.Split(token.JWT.Reveal(), ".")...)
	}
	for _, value := range s.request.Secrets {
		whole = append(whole, quoted(value.Reveal(), quotings)...)
	}
	words = redactor(whole).Replace(words)
	words = credential.ReplaceAllString(words, secret.Redacted)
	return oneLine(redactor(parts).Replace(words), maxWords)
}

// holdsToken tells whether there is a service account token in a text. It does
// not look for other secrets: one may be a word that is in ordinary names.
func (s scrubber) holdsToken(text string) bool {
	for _, token := range s.request.Tokens {
		if !token.JWT.Empty() && strings.Contains(text, token.JWT.Reveal()) {
			return true
		}
	}
	return credential.MatchString(text)
}

// quoted is a text as it is and as JSON and Go quote it, and quote that again:
// an error may show a request, which is JSON, as a Go string.
func quoted(text string, times int) []string {
	all := []string{text}
	if times == 0 || len(text) > longestQuoted || strings.IndexFunc(text, special) < 0 {
		return all
	}
	if q, err := json.Marshal(text); err == nil {
		all = append(all, quoted(string(q[1:len(q)-1]), times-1)...)
	}
	q := strconv.Quote(text)
	return append(all, quoted(q[1:len(q)-1], times-1)...)
}

// special is a character that some quoting may change.
func special(r rune) bool { return !strings.ContainsRune(unquoted, r) }

// redactor looks for the longest first, so that no part of one is left
// standing because another is the beginning of it.
func redactor(known []string) *strings.Replacer {
	slices.SortFunc(known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, s := range slices.Compact(known) {
		if len(s) >= leastSecret {
			pairs = append(pairs, s, secret.Redacted)
		}
	}
	return strings.NewReplacer(pairs...)
}

// oneLine drops what could forge lines in logs and events.
func oneLine(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r)
	}), " ")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
