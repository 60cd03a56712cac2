package vault

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// foreignBodies are what proxies, ingresses, firewalls and other servers answer.
var foreignBodies = map[string]string{
	"empty":           "",
	"nginx":           "default backend - 404",
	"html":            "<html><center>404 Not Found</center></html>",
	"istio":           "RBAC: access denied",
	"kong":            `{"message":"no Route matched with those values","request_id":"5b1c"}`,
	"gateway":         `{"message":"Forbidden"}`,
	"spring":          `{"timestamp":1,"status":404,"error":"Not Found","path":"/v1/kv1/a"}`,
	"JSON:API":        `{"errors":[{"status":"403","title":"Forbidden"}]}`,
	"registry":        `{"errors":[{"code":"DENIED","message":"denied"}]}`,
	"cloudflare":      `{"success":false,"errors":[],"messages":[],"result":null}`,
	"errors and more": `{"errors":["permission denied"],"status":403}`,
	"errors null":     `{"errors":null}`,
	"errors a text":   `{"errors":"permission denied"}`,
	"a list":          `["permission denied"]`,
	"half":            `{"errors":["permission den`,
	"no envelope":     `{"data":null,"request_id":"x"}`,
}

// TestForeignWords has each status with each body that is not Vault's: it is
// an outage, and never a denial, a missing secret or a wrong request.
func TestForeignWords(t *testing.T) {
	for _, status := range []int{302, 400, 401, 402, 403, 404, 405, 407, 408, 410, 413, 421, 425, 429, 431, 451, 472, 473, 499, 500, 501, 502, 503, 504, 520, 599} {
		for name, body := range foreignBodies {
			v := verdictOf(&endpoint.Reply{Status: status, Body: []byte(body), ContentType: "text/x"})
			if reason := reasonOfStatus(status, v); v.own || !reason.Outage() {
				t.Errorf("%d %s: %s, own %t", status, name, reason, v.own)
			}
			if status == 403 && !strings.Contains(v.hint, "a proxy, ingress or firewall before Vault") {
				t.Errorf("%d %s: the hint is %q", status, name, v.hint)
			}
		}
	}
}

// TestOwnWords has what Vault itself says; the bodies are those of Vault 1.21.
func TestOwnWords(t *testing.T) {
	const deleted = `{"request_id":"8","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":null,"metadata":{"deletion_time":"x","version":1}},"wrap_info":null,"warnings":null,"auth":null,"mount_type":""}`
	const wrongPath = `{"request_id":"8","lease_id":"","renewable":false,"lease_duration":0,"data":null,"wrap_info":null,"warnings":["Invalid path for a versioned K/V secrets engine."],"auth":null,"mount_type":""}`
	errs := func(words string) string { return fmt.Sprintf("{\"errors\":[%s]}\n", words) }
	for _, tc := range []struct {
		status     int
		body, says string
		want       fault.Reason
		hint       string
	}{
		{403, errs(`"1 error occurred:\n\t* permission denied\n\n"`), "permission denied", fault.Denied, ""},
		{403, errs(`"2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"`), "invalid token", fault.Denied, ""},
		{401, errs(`"unauthorized"`), "unauthorized", fault.Denied, ""},
		{404, errs(""), "Not Found", fault.NotFound, ""},
		{404, deleted, "Not Found", fault.NotFound, ""},
		{404, wrongPath, "versioned K/V", fault.NotFound, ""},
		{404, errs(`"no handler for route \"x/a\". route entry not found."`), "no handler", fault.NotFound, ""},
		{400, errs(`"unknown role: none"`), "unknown role", fault.Rejected, ""},
		{400, errs(`"path disabled in replication DR secondary mode"`), "DR secondary", fault.Unavailable, "the primary"},
		{400, errs(`"Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period."`), "Upgrading", fault.Unavailable, ""},
		{400, errs(`"Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."`), "one use left", fault.Rejected, "token_num_uses"},
		{405, errs(`"1 error occurred:\n\t* unsupported operation\n\n"`), "unsupported", fault.Rejected, "method: POST"},
		{412, errs(`"required index state not present"`), "index", fault.Unavailable, ""},
		{429, errs(`"request path: rate limit quota exceeded"`), "quota", fault.RateLimited, "rate limit"},
		{472, errs(""), "", fault.Unavailable, "disaster recovery"},
		{473, errs(""), "", fault.Unavailable, "performance standby"},
		{500, errs(`"internal error"`), "internal", fault.Unavailable, ""},
		{501, errs(`"Vault is not initialized"`), "not init", fault.Unavailable, "not initialised"},
		{503, errs(`"Vault is sealed"`), "sealed", fault.Unavailable, "unseal"},
	} {
		v := verdictOf(&endpoint.Reply{Status: tc.status, Body: []byte(tc.body)})
		if reason := reasonOfStatus(tc.status, v); !v.own || reason != tc.want || !strings.Contains(v.words, tc.says) {
			t.Errorf("%d %s: %s, want %s, saying %q", tc.status, tc.body, reason, tc.want, v.words)
		}
		if hint := hintOfStatus(tc.status, v.words); (hint == "") != (tc.hint == "") || !strings.Contains(hint, tc.hint) {
			t.Errorf("%d %s: the hint is %q, want %q in it", tc.status, tc.body, hint, tc.hint)
		}
	}
}

func TestOwnAnswers(t *testing.T) {
	const envelope = `{"request_id":"1","lease_id":"","renewable":false,"lease_duration":0,"data":{"k":"v"},"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}`
	const keys, discovery = "identity/oidc/.well-known/keys", "identity/oidc/provider/p/.well-known/openid-configuration"
	for _, tc := range []struct {
		name, path, body string
		want             bool
	}{
		{"envelope", "kv1/a", envelope, true},
		{"envelope of a newer Vault", "kv1/a", `{"request_id":"1","data":{},"novelty":1}`, true},
		{"old envelope", "kv1/a", `{"lease_id":"","data":{"k":"v"}}`, true},
		{"login", "auth/kubernetes/login", `{"request_id":"1","data":null,"auth":{"client_token":"t"}}`, true},
		{"wrapped", "kv1/a", `{"request_id":"1","data":null,"wrap_info":{"token":"t"}}`, true},
		{"data beside the envelope", "sys/mounts", `{"secret/":{},"request_id":"1","data":{"secret/":{}}}`, true},
		{"published keys", keys, `{"keys":[]}`, true},
		{"published keys, in a namespace", "team/" + keys, `{"keys":[]}`, true},
		{"discovery of a provider", discovery, `{"issuer":"x","jwks_uri":"y"}`, true},
		{"health", "sys/health", `{"initialized":true,"sealed":false}`, true},
		{"description", "sys/internal/specs/openapi", `{"openapi":"3.0.2"}`, true},
		{"maintenance", "kv1/a", `{"status":"maintenance"}`, false},
		{"maintenance at published keys", keys, `{"status":"maintenance"}`, false},
		{"maintenance at the health", "sys/health", `{"status":"maintenance"}`, false},
		{"maintenance with data", "kv1/a", `{"status":"maintenance","data":{"until":"noon"}}`, false},
		{"data of text", "kv1/a", `{"data":"maintenance"}`, false},
		{"data of a list", "kv1/a", `{"data":["maintenance"]}`, false},
		{"keys elsewhere", "kv1/keys", `{"keys":[]}`, false},
		{"errors", "kv1/a", `{"errors":["x"]}`, false},
		{"list", "kv1/a", `[1]`, false},
		{"empty", "kv1/a", ``, false},
	} {
		testkit.Equal(t, tc.name+": Vault's own answer", isOwnAnswer(tc.path, []byte(tc.body)), tc.want)
	}
}

func TestOlderVersion(t *testing.T) {
	const one, two = "2026-01-01T00:00:01.5Z", "2026-01-01T00:00:02Z"
	for _, tc := range []struct {
		name   string
		is, of session.Revision
		want   bool
	}{
		{"earlier", session.Revision{Number: "4", Changed: one}, session.Revision{Number: "5", Changed: two}, true},
		{"by number, not by text", session.Revision{Number: "9", Changed: one}, session.Revision{Number: "10", Changed: two}, true},
		{"the same", session.Revision{Number: "5", Changed: two}, session.Revision{Number: "5", Changed: two}, false},
		{"later", session.Revision{Number: "6", Changed: two}, session.Revision{Number: "5", Changed: one}, false},
		{"made again", session.Revision{Number: "1", Changed: two}, session.Revision{Number: "5", Changed: one}, false},
		{"no KV v2", session.Revision{}, session.Revision{Number: "5", Changed: one}, false},
		{"no KV v2 before", session.Revision{Number: "5", Changed: one}, session.Revision{}, false},
		{"a time that says nothing", session.Revision{Number: "4", Changed: "x"}, session.Revision{Number: "5", Changed: two}, false},
	} {
		testkit.Equal(t, tc.name+": older", older(tc.is, tc.of), tc.want)
	}
}

func TestJSONPath(t *testing.T) {
	for path, want := range map[string]string{
		"pki/ca": "pki/cert/ca", "pki/ca/pem": "pki/cert/ca", "a/b/ca_chain": "a/b/cert/ca_chain", "pki/crl/pem": "pki/cert/crl", "pki/crl/delta": "pki/cert/delta-crl",
		"pki/cert/ca/raw": "pki/cert/ca", "pki/cert/ca/raw/pem": "pki/cert/ca", "a/b/cert/17:3f/raw/pem": "a/b/cert/17:3f",
		"pki/issuer/default/pem": "pki/issuer/default/json", "pki/issuer/default/der": "pki/issuer/default/json",
		"pki/issuer/default/crl/pem": "pki/issuer/default/crl", "pki/issuer/x/crl/der": "pki/issuer/x/crl",
		"": "", "ca": "", "pki/cert/ca": "", "pki/cert/ca_chain": "", "pki/cert/crl": "", "pki/issue/web": "", "cert/ca/raw": "", "issuer/x/pem": "",
		"secret/data/raw": "", "secret/data/pem": "", "secret/raw/pem": "", "raw": "", "pem": "", "a/pem": "",
	} {
		testkit.Equal(t, path, jsonPath(path), want)
	}
}
