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
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// wordsInvalidToken are in Vault's refusal of a token that it does not know.
	wordsInvalidToken = "invalid token"
	// wordsLastUse are in Vault's answer to one that makes a lease with the last
	// use of a token.
	wordsLastUse = "token had one use left"
	// wordsUnmounted are in Vault's answer for a path at which nothing is mounted.
	wordsUnmounted = "no handler for route"
)

// envelopeKeys are the fields that Vault puts around the data of an answer.
func envelopeKeys() []string {
	return []string{"request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth", "mount_type"}
}

// ownWords are what Vault itself says with a status other than 2xx. ok is
// false for the body of anything else, such as a proxy, which says nothing of
// a secret, a role or a token.
//
// Vault answers {"errors": [...]}, with no error in the list where a path
// holds nothing. KV version 2 answers 404 with the whole envelope: for a
// version that was deleted, with its metadata in data, and for a wrong path,
// with a warning.
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

// verdict is what an answer with a status other than 2xx says.
type verdict struct {
	words string
	hint  string
	// own tells that Vault itself said it.
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
	case saysTLS(r):
		return verdict{words: wordsTLS, hint: "use https:// in the address"}
	case len(r.Body) == 0:
		return verdict{words: text + ", without a body", hint: hintOfForeign(r.Status)}
	}
	return verdict{
		words: fmt.Sprintf("%s, with a body that is not Vault's (%s, %d bytes)", text, describeType(r.ContentType), len(r.Body)),
		hint:  hintOfForeign(r.Status),
	}
}

// wordsTLS are for the one foreign answer that tells what is wrong.
const wordsTLS = "it speaks TLS"

// saysTLS recognises Go's answer to plain HTTP on a TLS port.
func saysTLS(r *endpoint.Reply) bool {
	return r.Status == http.StatusBadRequest && strings.Contains(string(r.Body), "HTTP request to an HTTPS server")
}

func hintOfForeign(status int) string {
	if status >= 400 && status < 500 {
		return "a proxy, ingress or firewall before Vault may have answered, so this says nothing of the secret; is this the address of a Vault server?"
	}
	return "is this the address of a Vault server, or of a proxy before it?"
}

// bareAnswers are the paths where Vault answers without its envelope, each with
// a key that the answer has. Everything else without an envelope is not
// Vault's, such as the maintenance page of a proxy.
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

// pathOIDC is where the identity engine publishes what verifies its tokens. A
// provider has its own: identity/oidc/provider/<name>/.well-known.
const pathOIDC = "identity/oidc/.well-known"

// bareKey is the key that an answer without envelope must have at a path; empty
// where there is no such answer. A namespace may come before the path.
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

// isOwnAnswer tells whether the body of a good answer is one that Vault gives at
// a path: the envelope, or one of the bare answers.
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
		return true // a newer Vault may have fields that are not known here
	}
	for key := range all {
		if !slices.Contains(envelopeKeys(), key) {
			return false
		}
	}
	return true
}

// jsonPath is the path at which the PKI engine answers as JSON what it answers
// as text, or as plain bytes, at another; empty for any other path.
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

// ownText is a PEM text that the PKI engine answers in place of JSON, as a JSON
// text, so that one form serves for all answers; nil for any other answer.
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

// credential matches what looks like a Vault token.
var credential = regexp.MustCompile(`\b(hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}`)

// scrub takes out credentials that a server repeats, and what would break a
// line.
func scrub(words string, secrets []secret.String) string {
	return endpoint.Scrub(words, secrets, credential)
}

func describeType(contentType string) string {
	if contentType == "" {
		return "no content type"
	}
	return params.Clip(scrub(contentType, nil))
}
