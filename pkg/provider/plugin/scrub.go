package plugin

import (
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// maxWords bounds a provider's text in an error, in bytes.
const maxWords = 2048

// scrubber removes from a provider's texts the secrets of the request: the service account tokens
// and the secrets of the nodePublishSecretRef. It prepares for that only when there is a text, so a
// successful call costs nothing.
type scrubber struct{ request *provider.Request }

// text makes a provider's text safe to show: without secrets, on one line and not too long.
func (s scrubber) text(words string) string {
	known := make([]secret.String, 0, len(s.request.Tokens)+len(s.request.Secrets))
	for _, token := range s.request.Tokens {
		known = append(known, token.JWT)
	}
	for _, value := range s.request.Secrets {
		known = append(known, value)
	}
	return secret.OneLine(secret.Redact(words, known), maxWords)
}

// holdsToken reports whether there is a service account token in a text. It does not look for other
// secrets: one may be a word that occurs in ordinary names.
func (s scrubber) holdsToken(text string) bool {
	for _, token := range s.request.Tokens {
		if !token.JWT.Empty() && strings.Contains(text, token.JWT.Reveal()) {
			return true
		}
	}
	return secret.LooksLikeCredential(text)
}
