package vault

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

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
