package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

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

// bareAnswers maps the paths where Vault answers without its envelope to a key that the
// answer has. Any other answer without an envelope is not Vault's, such as the maintenance
// page of a proxy.
func bareAnswers() map[string]string {
	return map[string]string{
		"sys/health":                       "initialized",
		"sys/init":                         "initialized",
		"sys/seal-status":                  "sealed",
		"sys/seal-backend-status":          "healthy",
		"sys/leader":                       "ha_enabled",
		"sys/metrics":                      "Gauges",
		"sys/internal/ui/feature-flags":    "feature_flags",
		"sys/internal/specs/openapi":       "openapi",
		pathOIDC + "/openid-configuration": "issuer",
		pathOIDC + "/keys":                 "keys",
	}
}

// pathOIDC is where the identity engine publishes the keys of its tokens. A provider has
// its own path: identity/oidc/provider/<name>/.well-known.
const pathOIDC = "identity/oidc/.well-known"

// bareKey returns the key that an answer without an envelope must have at a path; empty if
// there is no such answer. The path may begin with a namespace.
func bareKey(path string) string {
	if before, after, ok := strings.Cut("/"+path, "/identity/oidc/provider/"); ok {
		if _, end, ok := strings.Cut(after, "/"); ok {
			path = before + "/identity/oidc/" + end
		}
	}
	for at, key := range bareAnswers() {
		if path == at || strings.HasSuffix(path, "/"+at) {
			return key
		}
	}
	return ""
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

// jsonPath returns the path at which the PKI engine returns as JSON what it returns as
// text or bytes at another; empty for any other path.
func jsonPath(path string) string {
	e := strings.Split(path, "/")
	under := func(name string, i int) bool { return i > 0 && e[i] == name } // after a mount
	if plain := strings.TrimSuffix(path, "/pem"); strings.HasSuffix(plain, "/raw") && under("cert", strings.Count(plain, "/")-2) {
		return strings.TrimSuffix(plain, "/raw")
	}
	switch last := len(e) - 1; {
	case e[last] != "pem" && e[last] != "der":
	case under("issuer", last-2):
		return strings.Join(e[:last], "/") + "/json"
	case under("issuer", last-3) && e[last-1] == "crl":
		return strings.Join(e[:last], "/")
	}
	for end, json := range map[string]string{
		"ca": "cert/ca", "ca/pem": "cert/ca", "ca_chain": "cert/ca_chain",
		"crl": "cert/crl", "crl/pem": "cert/crl", "crl/delta": "cert/delta-crl", "crl/delta/pem": "cert/delta-crl",
	} {
		if mount, ok := strings.CutSuffix(path, "/"+end); ok && mount != "" && !strings.HasSuffix(mount, "/cert") && !strings.HasSuffix(mount, "/crl") {
			return mount + "/" + json
		}
	}
	return ""
}

// ownText returns a PEM text of the PKI engine as a JSON string, so that all answers have
// one form; nil for any other answer.
func ownText(path string, body []byte) []byte {
	if jsonPath(path) == "" || !bytes.HasPrefix(body, []byte("-----BEGIN ")) || !utf8.Valid(body) {
		return nil
	}
	text, err := json.Marshal(string(body))
	if err != nil {
		return nil
	}
	return text
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
