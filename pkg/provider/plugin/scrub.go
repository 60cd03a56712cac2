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
	// minSecret is the length of the shortest text that counts as a secret: replacing shorter
	// ones would damage ordinary words.
	minSecret = 4
	// maxQuotings is how many times a text may have been quoted.
	maxQuotings = 3
	// maxQuoted bounds the texts that are searched in quoted form, in bytes.
	maxQuoted = 16 << 10
	// unquoted are the characters that no quoting changes.
	unquoted = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/=:"
)

// credential matches what looks like a JWT, or the beginning of one, and private keys.
var credential = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*` +
	`|(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)

// scrubber removes from a provider's texts the secrets of the request: the service account tokens,
// whole and in their parts, and the secrets of the nodePublishSecretRef. It prepares for that only
// when there is a text, so a successful call costs nothing.
type scrubber struct{ request *provider.Request }

// text makes a provider's text safe to show: without secrets, on one line and not too long. It
// removes what looks like a truncated token before it removes the parts of tokens, because without
// those a truncated token is not recognizable.
func (s scrubber) text(words string) string {
	var whole, parts []string
	for _, token := range s.request.Tokens {
		whole = append(whole, token.JWT.Reveal())
		parts = append(parts, strings.Split(token.JWT.Reveal(), ".")...)
	}
	for _, value := range s.request.Secrets {
		whole = append(whole, quoted(value.Reveal(), maxQuotings)...)
	}
	words = redactor(whole).Replace(words)
	words = credential.ReplaceAllString(words, secret.Redacted)
	return oneLine(redactor(parts).Replace(words), maxWords)
}

// holdsToken reports whether there is a service account token in a text. It does not look for other
// secrets: one may be a word that occurs in ordinary names.
func (s scrubber) holdsToken(text string) bool {
	for _, token := range s.request.Tokens {
		if !token.JWT.Empty() && strings.Contains(text, token.JWT.Reveal()) {
			return true
		}
	}
	return credential.MatchString(text)
}

// quoted returns a text as it is and as JSON and Go quote it, and quotes the results again: an
// error may show a request, which is JSON, as a Go string.
func quoted(text string, times int) []string {
	all := []string{text}
	if times == 0 || len(text) > maxQuoted || strings.IndexFunc(text, special) < 0 {
		return all
	}
	if q, err := json.Marshal(text); err == nil {
		all = append(all, quoted(string(q[1:len(q)-1]), times-1)...)
	}
	q := strconv.Quote(text)
	return append(all, quoted(q[1:len(q)-1], times-1)...)
}

// special reports whether some quoting may change a character.
func special(r rune) bool { return !strings.ContainsRune(unquoted, r) }

// redactor replaces the longest secrets first, so that no part of one remains because another one
// is a prefix of it.
func redactor(known []string) *strings.Replacer {
	slices.SortFunc(known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, s := range slices.Compact(known) {
		if len(s) >= minSecret {
			pairs = append(pairs, s, secret.Redacted)
		}
	}
	return strings.NewReplacer(pairs...)
}

// oneLine replaces everything that could forge lines in logs and events.
func oneLine(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r)
	}), " ")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
