package secret

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mayfly-csi/mayfly/pkg/printable"
)

const (
	// minKnown is the length of the shortest text that Redact removes, in bytes: removing shorter
	// ones would damage ordinary words.
	minKnown = 4
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

// Redact removes credentials from a text that another program wrote, for an error or a log: the
// known secrets as they are, quoted by JSON or Go, and in base64; what looks like a JWT or a private
// key; what matches looksLike; and the single parts of a known JWT.
//
// The parts of JWTs go last: without them the rest of a truncated token is not recognizable.
func Redact(words string, known []String, looksLike ...*regexp.Regexp) string {
	if words == "" {
		return ""
	}
	var whole, parts []string
	for _, k := range known {
		plain := k.Reveal()
		if len(plain) < minKnown {
			continue
		}
		whole = append(whole, quoted(plain, maxQuotings)...)
		whole = append(whole, encoded(plain)...)
		if p := strings.Split(plain, "."); len(p) == 3 {
			parts = append(parts, p...)
		}
	}
	words = replacer(whole).Replace(words)
	for _, r := range append([]*regexp.Regexp{credential}, looksLike...) {
		words = r.ReplaceAllString(words, Redacted)
	}
	return replacer(parts).Replace(words)
}

// LooksLikeCredential reports whether a text holds what looks like a JWT or a private key.
func LooksLikeCredential(text string) bool { return credential.MatchString(text) }

// OneLine makes one line of a text, without characters that could forge lines in logs and Events.
// It cuts what is over limit bytes.
func OneLine(text string, limit int) string {
	return printable.Cut(strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return unicode.IsControl(r) || unicode.IsSpace(r) || r == '\u2028' || r == '\u2029'
	}), " "), limit)
}

// quoted returns a text as it is and as JSON and Go quote it, and quotes the results again: an error
// may show a request, which is JSON, as a Go string.
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

// encoded returns a text in base64, without the padding, which may follow.
func encoded(text string) []string {
	return []string{base64.RawStdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text))}
}

// replacer replaces the longest texts first, so that no part of one remains because another one is a
// prefix of it.
func replacer(known []string) *strings.Replacer {
	slices.SortFunc(known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, s := range slices.Compact(known) {
		if len(s) >= minKnown {
			pairs = append(pairs, s, Redacted)
		}
	}
	return strings.NewReplacer(pairs...)
}
