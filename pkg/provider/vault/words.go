package vault

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// wordsInvalidToken is the text of Vault's refusal of an unknown token.
	wordsInvalidToken = "invalid token"
	// wordsLastUse is the text of Vault's refusal to create a lease with the last use of a
	// token.
	wordsLastUse = "token had one use left"
	// wordsUnmounted is the text of Vault's answer for a path without a mount.
	wordsUnmounted = "no handler for route"
)

// envelopeKeys are the fields that Vault puts around the data of an answer.
func envelopeKeys() []string {
	return []string{"request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth", "mount_type"}
}

// ownWords returns Vault's own text of an answer with a status other than 2xx. ok is false
// if the body is not Vault's, such as that of a proxy, which proves nothing about a
// secret, a role or a token.
//
// Vault answers {"errors": [...]}, with an empty list if a path has nothing. KV version 2
// answers 404 with the whole envelope: for a deleted version with its metadata in data,
// and for a wrong path with a warning.
func ownWords(body []byte) (words []string, ok bool) {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil {
		return nil, false
	}
	raw, errs := all["errors"]
	for key := range all {
		if key != "errors" && !slices.Contains(envelopeKeys(), key) {
			return nil, false
		}
	}
	switch {
	case errs:
		if isNull(raw) || json.Unmarshal(raw, &words) != nil {
			return nil, false
		}
	case len(all["request_id"]) == 0 || len(all["lease_id"]) == 0 || len(all["data"]) == 0:
		return nil, false
	}
	var warnings []string
	if json.Unmarshal(all["warnings"], &warnings) == nil {
		words = append(words, warnings...)
	}
	return words, true
}

// verdict is the meaning of an answer with a status other than 2xx.
type verdict struct {
	words string
	hint  string
	// own says that the text is Vault's own.
	own bool
}

func verdictOf(r *endpoint.Reply) verdict {
	text := http.StatusText(r.Status)
	if words, ok := ownWords(r.Body); ok {
		said := strings.TrimSpace(strings.Join(words, "; "))
		if said == "" {
			said = text
		}
		return verdict{words: said, own: true}
	}
	switch {
	case r.SpeaksTLS():
		return verdict{words: endpoint.WordsTLS, hint: endpoint.HintTLS}
	case len(r.Body) == 0:
		return verdict{words: text + ", without a body", hint: hintOfForeign(r.Status)}
	}
	return verdict{
		words: fmt.Sprintf("%s, with a body that is not Vault's (%s)", text, shape(r.ContentType, r.Body)),
		hint:  hintOfForeign(r.Status),
	}
}

func hintOfForeign(status int) string {
	if status >= 400 && status < 500 {
		return "a proxy, ingress or firewall before Vault may have answered, so this says nothing of the secret; is this the address of a Vault server?"
	}
	return "is this the address of a Vault server, or of a proxy before it?"
}

// isOwnAnswer reports whether a good answer is one that Vault gives at a path: with the
// envelope, or one of the bare answers.
func isOwnAnswer(path string, body []byte) bool {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil {
		return false
	}
	if isNull(all["data"]) && isNull(all["auth"]) && isNull(all["wrap_info"]) {
		key := bareKey(path)
		return key != "" && len(all[key]) > 0
	}
	if data := all["data"]; !isNull(data) && data[0] != '{' {
		return false
	}
	if len(all["request_id"]) > 0 {
		return true // a newer Vault may have more fields
	}
	for key := range all {
		if !slices.Contains(envelopeKeys(), key) {
			return false
		}
	}
	return true
}

// credential matches texts that look like a Vault token.
var credential = regexp.MustCompile(`\b(hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}`)

// scrub removes credentials that a server repeats, and characters that would break a line.
func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, credential)
}

func shape(contentType string, body []byte) string {
	return endpoint.Shape(contentType, len(body), credential)
}
