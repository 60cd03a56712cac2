package vault_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const oneObject = `[{objectName: a, secretPath: kv1/a}]`

func classOf(params map[string]string) *class.Class {
	all := map[string]string{"roleName": "app", "vaultAddress": "https://vault.example:8200", "objects": oneObject}
	for k, v := range params {
		all[k] = v
		if v == "-" {
			delete(all, k)
		}
	}
	return &class.Class{Ref: class.Ref{Namespace: "shop", Name: "app"}, Parameters: all}
}

// TestParameters names the field of every mistake.
func TestParameters(t *testing.T) {
	for _, tc := range []struct {
		name   string
		flav   string
		params map[string]string
		want   []string // each in the error; empty for no error
		warns  []string
	}{
		{name: "good"},
		{name: "no role", params: map[string]string{"roleName": "-"}, want: []string{"spec.parameters.roleName: Required value"}},
		{name: "empty is absent", params: map[string]string{"vaultNamespace": "", "roleName": ""}, want: []string{"spec.parameters.roleName: Required value"}},
		{name: "no address", params: map[string]string{"vaultAddress": "-"}, want: []string{"spec.parameters.vaultAddress: Required value"}},
		{name: "no objects", params: map[string]string{"objects": "-"}, want: []string{"spec.parameters.objects: Required value"}},
		{name: "all at once", params: map[string]string{"roleName": "-", "objects": "-", "vaultAddress": "ftp://x", "vaultSkipTLSVerify": "perhaps"},
			want: []string{"spec.parameters.roleName", "spec.parameters.objects", "spec.parameters.vaultAddress: Invalid value", "spec.parameters.vaultSkipTLSVerify: Invalid value"}},
		{name: "address with a password", params: map[string]string{"vaultAddress": "https://u:" + markValue + "@x"}, want: []string{"must not hold a user or password"}},
		{name: "address with a query", params: map[string]string{"vaultAddress": "https://x?y"}, want: []string{"spec.parameters.vaultAddress"}},
		{name: "address without a scheme", params: map[string]string{"vaultAddress": "vault:8200"}, want: []string{"the scheme must be http or https"}},
		{name: "both mounts", params: map[string]string{"vaultAuthMountPath": "a", "vaultKubernetesMountPath": "b"}, want: []string{"spec.parameters.vaultKubernetesMountPath: Forbidden"}},
		{name: "mount that climbs", params: map[string]string{"vaultAuthMountPath": "../sys"}, want: []string{"spec.parameters.vaultAuthMountPath"}},
		{name: "certificate without key", params: map[string]string{"vaultTLSClientCertPath": "/c"}, want: []string{"spec.parameters.vaultTLSClientKeyPath: Required value"}},
		{name: "key without certificate", params: map[string]string{"vaultTLSClientKeyPath": "/k"}, want: []string{"spec.parameters.vaultTLSClientCertPath: Required value"}},
		{name: "header injection", params: map[string]string{"vaultNamespace": "a\r\nX-Vault-Token: b"}, want: []string{"spec.parameters.vaultNamespace", "control characters"}},
		{name: "sharing", params: map[string]string{"sessionSharing": "all"}, want: []string{"spec.parameters.sessionSharing: Unsupported value"}},
		{name: "unknown near", params: map[string]string{"vaultAdress": "https://x"}, want: []string{"vaultAdress: unknown; did you mean vaultAddress?"}, warns: []string{"spec.parameters.vaultAdress: unknown; did you mean vaultAddress?"}},
		{name: "unknown case", params: map[string]string{"rolename": "x"}, want: []string{"did you mean roleName?"}, warns: []string{"did you mean roleName?"}},
		{name: "unknown far", params: map[string]string{"zzz": "x"}, warns: []string{"spec.parameters.zzz: unknown, so ignored"}},
		{name: "bao prefix of vault", params: map[string]string{"baoNamespace": "x"}, warns: []string{"spec.parameters.baoNamespace: unknown"}},
		{name: "bao prefix of openbao", flav: "openbao", params: map[string]string{"baoNamespace": "x", "openbaoCACertPath": "/etc/mayfly/class-files/x", "vaultAuthMountPath": "k"}},
		{name: "two aliases", flav: "openbao", params: map[string]string{"baoAddress": "https://x", "vaultAddress": "https://y"}, warns: []string{"spec.parameters.vaultAddress: ignored: it says the same as baoAddress, which comes first"}},
		{name: "plain and prefixed", flav: "openbao", params: map[string]string{"roleName": "r", "vaultRoleName": "v"}, warns: []string{"spec.parameters.vaultRoleName: ignored: it says the same as roleName"}},
		{name: "two of one prefix", params: map[string]string{"vaultAuthMountPath": "a", "vaultKubernetesMountPath": "b"}, want: []string{"spec.parameters.vaultKubernetesMountPath: Forbidden: says the same as vaultAuthMountPath"}},
		{name: "missing of openbao", flav: "openbao", params: map[string]string{"vaultAddress": "-"}, want: []string{"spec.parameters.baoAddress: Required value"}},
		{name: "TLS over http", params: map[string]string{"vaultAddress": "http://x", "vaultCACertPath": "/etc/mayfly/class-files/x"}, warns: []string{"TLS parameters have no effect"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProvider(t, func(c *vault.Config) {
				if tc.flav != "" {
					c.Name = tc.flav
				}
			})
			warnings, err := p.Validate(classOf(tc.params))
			checkError(t, err, fault.InvalidClass, tc.want)
			if len(warnings) != len(tc.warns) {
				t.Errorf("warnings %q, want %q", warnings, tc.warns)
			}
			for i, w := range tc.warns {
				if i < len(warnings) && !strings.Contains(warnings[i], w) {
					t.Errorf("warning %q does not say %q", warnings[i], w)
				}
			}
		})
	}
}

func checkError(t *testing.T, err error, reason fault.Reason, says []string) {
	t.Helper()
	if len(says) == 0 {
		testkit.Check(t, err)
		return
	}
	testkit.Fails(t, err, reason, says...)
	testkit.Lacks(t, fmt.Sprint(err), markValue)
}

// TestObjects names the field of every mistake in the objects.
func TestObjects(t *testing.T) {
	obj := func(rest string) string { return "- objectName: a\n  secretPath: kv1/a\n" + rest }
	named := func(name string) string { return "- secretPath: kv1/a\n  objectName: " + name + "\n" }
	pathed := func(path string) string { return "- objectName: a\n  secretPath: " + path + "\n" }
	const at = "spec.parameters.objects"
	for _, tc := range []struct {
		name, yaml string
		want       []string
		warns      []string
	}{
		{name: "not YAML", yaml: "- a: [", want: []string{at + ": Invalid value", "is not YAML: line 1"}},
		{name: "tabs", yaml: "\t- a", want: []string{at, "is not YAML"}},
		{name: "a map", yaml: "objectName: a", want: []string{at, "must be a YAML list of objects", "not a map"}},
		{name: "text", yaml: "hello", want: []string{at, "not text"}},
		{name: "empty list", yaml: "[]", want: []string{at + ": Required value"}},
		{name: "only a comment", yaml: "# none", want: []string{at + ": Required value"}},
		{name: "null", yaml: "~", want: []string{at}},
		{name: "self", yaml: "- &x\n  objectName: a\n  secretPath: kv1/a\n  method: POST\n  secretArgs: {a: *x}\n", want: []string{at}},
		{name: "an item of text", yaml: "- a\n- b", want: []string{at + "[0]: Invalid value", "line 1", at + "[1]", "not text"}},
		{name: "empty item", yaml: "- ", want: []string{at + "[0]", "not empty"}},
		{name: "nothing in it", yaml: "- {}", want: []string{at + "[0].objectName: Required value", at + "[0].secretPath: Required value"}},
		{name: "second is bad", yaml: oneGood + "- objectName: b\n", want: []string{at + "[1].secretPath: Required value", "line 3"}},
		{name: "path is a number", yaml: pathed("7")},
		{name: "path is a list", yaml: pathed("[a]"), want: []string{at + "[0].secretPath", "not a list"}},
		{name: "name is a boolean", yaml: named("true")},
		{name: "key is a number", yaml: obj("  secretKey: 1\n")},
		{name: "key is a list", yaml: obj("  secretKey: [a]\n"), want: []string{at + "[0].secretKey", "must be text, not a list"}},
		{name: "key twice", yaml: obj("  secretKey: a\n  secretKey: b\n"), want: []string{at, `"secretKey"`}},
		{name: "unknown field", yaml: obj("  secretkey: a\n"), want: []string{"did you mean secretKey?"}, warns: []string{at + "[0].secretkey: unknown (line 3); did you mean secretKey?"}},
		{name: "method", yaml: obj("  method: DELETE\n"), want: []string{at + "[0].method", "must be GET, POST, PUT or LIST"}},
		{name: "method in small", yaml: obj("  method: post\n")},
		{name: "args of GET", yaml: obj("  secretArgs: {a: 1}\n"), warns: []string{at + "[0].secretArgs: is not sent with method GET"}},
		{name: "args are text", yaml: obj("  method: POST\n  secretArgs: x\n"), want: []string{at + "[0].secretArgs", "must be a map of arguments, not text"}},
		{name: "args without JSON form", yaml: obj("  method: POST\n  secretArgs: {a: .nan}\n"), want: []string{at + "[0].secretArgs", "has no JSON form"}},
		{name: "args with odd keys", yaml: obj("  method: POST\n  secretArgs: {[a]: b}\n"), want: []string{at + "[0].secretArgs"}},
		{name: "encoding", yaml: obj("  secretKey: k\n  encoding: rot13\n"), want: []string{at + "[0].encoding", "must be utf-8, base64 or hex"}},
		{name: "encoding of the whole", yaml: obj("  encoding: base64\n"), warns: []string{at + "[0].encoding: ignored: it needs a secretKey, and without one the file holds the whole answer as JSON"}},
		{name: "optional", yaml: obj("  optional: maybe\n"), want: []string{at + "[0].optional"}},
		{name: "mode 0999", yaml: obj("  filePermission: 0999\n"), want: []string{at + "[0].filePermission", "0640 or 0o640, or in decimal such as 416"}},
		{name: "mode 644", yaml: obj("  filePermission: 644\n"), want: []string{at + "[0].filePermission"}},
		{name: "mode negative", yaml: obj("  filePermission: -1\n"), want: []string{at + "[0].filePermission"}},
		{name: "mode setuid", yaml: obj("  filePermission: 04755\n"), want: []string{at + "[0].filePermission"}},
		{name: "mode symbolic", yaml: obj("  filePermission: u=rw\n"), want: []string{at + "[0].filePermission"}},
		{name: "owner", yaml: obj("  uid: 1000\n  gid: 1000\n  mode: 0400\n")},
		{name: "owner by name", yaml: obj("  uid: web\n"), want: []string{at + "[0].uid", "a whole number from 0 to 4294967294"}},
		{name: "owner twice", yaml: obj("  uid: 1\n  user: 1\n"), want: []string{at + "[0].user", "says the same as uid"}},
		{name: "mode of a list", yaml: obj("  filePermission: [1]\n"), want: []string{at + "[0].filePermission", "not a list"}},
		{name: "mode huge", yaml: obj("  filePermission: 99999999999999999999\n"), want: []string{at + "[0].filePermission"}},
		{name: "same name", yaml: oneGood + "- {objectName: b, secretPath: x}\n- {objectName: a, secretPath: y}\n", want: []string{at + "[2].objectName: Duplicate value", "objects[0] has this name too"}},
		{name: "file and directory", yaml: "- {objectName: a/b, secretPath: x}\n- {objectName: a, secretPath: y}\n", want: []string{at + "[0].objectName", `objects[1] is the file "a"`}},
		{name: "name climbs", yaml: named("../x"), want: []string{at + "[0].objectName", `it has a ".." element`}},
		{name: "name absolute", yaml: named("/etc/passwd"), want: []string{at + "[0].objectName", "it is absolute"}},
		{name: "name of the layout", yaml: named("..data"), want: []string{at + "[0].objectName", "reserved"}},
		{name: "name too long", yaml: named(strings.Repeat("n", 256)), want: []string{at + "[0].objectName", "256 bytes"}},
		{name: "name with NUL", yaml: named(`"a\0b"`), want: []string{at + "[0].objectName", "control character"}},
		{name: "name empty", yaml: named(`""`), want: []string{at + "[0].objectName", "it is empty"}},
		{name: "path climbs", yaml: pathed("kv1/../sys/raw"), want: []string{at + "[0].secretPath", `must not hold "." or ".." elements`}},
		{name: "path climbs encoded", yaml: pathed("kv1/%2e%2e/sys"), want: []string{at + "[0].secretPath"}},
		{name: "path climbs twice encoded", yaml: pathed("kv1/%252e%252e/sys"), want: []string{at + "[0].secretPath"}},
		{name: "path with an encoded slash", yaml: pathed("kv1/a%2fb"), want: []string{at + "[0].secretPath", "percent-encoded slashes"}},
		{name: "path with a newline", yaml: pathed(`"kv1/a\nb"`), want: []string{at + "[0].secretPath", "control characters"}},
		{name: "path with a bad query", yaml: pathed("kv1/a?x=%zz"), want: []string{at + "[0].secretPath", "URL query"}},
		{name: "path of nothing", yaml: pathed("/v1/"), want: []string{at + "[0].secretPath", "must be the path"}},
		{name: "anchors and merges", yaml: "- &base\n  objectName: a\n  secretPath: kv1/a\n  filePermission: 0600\n- <<: *base\n  objectName: b\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := newProvider(t, nil).Validate(classOf(map[string]string{"objects": tc.yaml}))
			checkError(t, err, fault.InvalidClass, tc.want)
			for i, w := range tc.warns {
				if i >= len(warnings) || !strings.Contains(warnings[i], strings.SplitN(w, ";", 2)[0]) {
					t.Errorf("warnings %q, want %q", warnings, tc.warns)
				}
			}
			if len(tc.want) == 0 && len(warnings) != len(tc.warns) {
				t.Errorf("warnings %q, want %q", warnings, tc.warns)
			}
		})
	}
}

const oneGood = "- objectName: a\n  secretPath: kv1/a\n"

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]vault.Config{
		"no name":         {},
		"bad default":     {Name: "vault", DefaultAddress: "vault"},
		"bad fallback":    {Name: "vault", DefaultAddress: "https://a", Servers: endpoint.Servers{DefaultFallback: "vault"}},
		"same server":     {Name: "vault", DefaultAddress: "https://a", Servers: endpoint.Servers{DefaultFallback: "https://a/x"}},
		"plain fallback":  {Name: "vault", DefaultAddress: "https://a", Servers: endpoint.Servers{DefaultFallback: "http://b"}},
		"fallback alone":  {Name: "vault", Servers: endpoint.Servers{DefaultFallback: "https://b"}},
		"bad mount":       {Name: "vault", DefaultAuthMount: "../x"},
		"bad pattern":     {Name: "vault", Servers: endpoint.Servers{AllowedAddresses: []string{"https://*.*.x"}}},
		"path pattern":    {Name: "vault", Servers: endpoint.Servers{AllowedAddresses: []string{"https://x/y"}}},
		"bare star":       {Name: "vault", Servers: endpoint.Servers{AllowedAddresses: []string{"https://*"}}},
		"skip verify":     {Name: "vault", Servers: endpoint.Servers{DefaultTLS: endpoint.TLS{SkipVerify: true}, ForbidSkipVerify: true}},
		"pair for nobody": {Name: "vault", Servers: endpoint.Servers{DefaultTLS: endpoint.TLS{ClientCertFile: "/c", ClientKeyFile: "/k"}}},
		"auth mount":      {Name: "vault", AllowedAuthMounts: []string{"../x"}},
		"class files":     {Name: "vault", Settings: endpoint.Settings{ClassFileDirs: []string{"files"}}},
		"half a pair":     {Name: "vault", Servers: endpoint.Servers{DefaultTLS: endpoint.TLS{ClientCertFile: "/c"}}},
		"negative":        {Name: "vault", Settings: endpoint.Settings{RequestTimeout: -1}},
	} {
		if _, err := vault.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestRequestsOnTheWire pins down how a class's paths reach the store.
func TestRequestsOnTheWire(t *testing.T) {
	for path, want := range map[string]string{
		"kv1/a":                  "GET /v1/kv1/a",
		"/kv1/a":                 "GET /v1/kv1/a",
		"v1/kv1/a":               "GET /v1/kv1/a",
		"/v1/kv1/a/":             "GET /v1/kv1/a",
		"kv1//a":                 "GET /v1/kv1/a",
		"kv2/data/a?version=2":   "GET /v1/kv2/data/a?version=2",
		"kv1/a b":                "GET /v1/kv1/a%20b",
		"kv1/100%":               "GET /v1/kv1/100%25",
		"kv1/a%20b":              "GET /v1/kv1/a%2520b",
		"kv1/a#b":                "GET /v1/kv1/a%23b",
		"kv1/ü":                  "GET /v1/kv1/%C3%BC",
		"kv1/a?b=c&a=d":          "GET /v1/kv1/a?a=d&b=c",
		"kv1/..a/b..":            "GET /v1/kv1/..a/b..",
		"kv1/a?x=../../sys/seal": "GET /v1/kv1/a?x=..%2F..%2Fsys%2Fseal",
	} {
		b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
		p := newProvider(t, nil)
		mustFetch(t, p, brokenRequest("v", b.URL+"/", map[string]string{"objects": "- {objectName: a, secretKey: k, secretPath: '" + path + "'}"}))
		if !slices.Contains(b.seen, want) {
			t.Errorf("%q: got %q, want %q", path, b.seen, want)
		}
	}
}

// TestDistinctRequests asks alike questions once, and others each.
func TestDistinctRequests(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, nil)
	mustFetch(t, p, brokenRequest("v", b.URL, map[string]string{"objects": `
- {objectName: a, secretPath: kv1/a, secretKey: k}
- {objectName: b, secretPath: /v1/kv1/a, secretKey: k}
- {objectName: c, secretPath: "kv1/a?x=1", secretKey: k}
- {objectName: d, secretPath: p, secretKey: k, method: POST, secretArgs: {b: {c: [1, 2.50, "x", null, true]}, a: 18446744073709551616}}
- {objectName: e, secretPath: p, secretKey: k, method: POST, secretArgs: {a: 18446744073709551616, b: {c: [1, 2.50, "x", null, true]}}}
- {objectName: f, secretPath: p, secretKey: k, method: POST, secretArgs: {a: 1}}
- {objectName: g, secretPath: kv1, secretKey: k, method: list}
`}))
	if got := b.count("") - b.count("/login"); got != 5 {
		t.Errorf("%d requests, want 5: %q", got, b.seen)
	}
	if b.count("/login") != 1 || b.count("GET /v1/kv1?list=true") != 1 {
		t.Errorf("requests: %q", b.seen)
	}
	if want := `{"a":18446744073709551616,"b":{"c":[1,2.50,"x",null,true]}}`; !slices.Contains(b.bodys, want) {
		t.Errorf("the arguments became %q, want %q", b.bodys, want)
	}
}

// TestNoAmbientSettings sets every variable that the API client looks at.
func TestNoAmbientSettings(t *testing.T) {
	for key, value := range map[string]string{
		"VAULT_TOKEN": markToken, "VAULT_ADDR": "http://127.0.0.1:1", "VAULT_AGENT_ADDR": "http://127.0.0.1:1", "VAULT_NAMESPACE": "ambient",
		"VAULT_HEADERS": `{"X-Ambient":"1"}`, "VAULT_WRAP_TTL": "60s", "VAULT_SKIP_VERIFY": "true", "VAULT_MAX_RETRIES": "9",
		"VAULT_PROXY_ADDR": "http://127.0.0.1:1", "VAULT_HTTP_PROXY": "http://127.0.0.1:1", "VAULT_RATE_LIMIT": "1:1",
	} {
		t.Setenv(key, value)
	}
	b := newBroken(t, nil)
	var heads []string
	b.login = checkHeaders(t, &heads, goodLogin(600))
	b.read = checkHeaders(t, &heads, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, nil)
	wantFile(t, mustFetch(t, p, brokenRequest("v", b.URL, nil)), "a", "v")
	if len(heads) != 2 || heads[0] != "" || heads[1] != markToken {
		t.Errorf("Vault tokens sent: %q; want none to log in, then that of the login", heads)
	}
}

func TestVaultNamespace(t *testing.T) {
	b := newBroken(t, nil)
	var spaces []string
	note := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			spaces = append(spaces, r.Header.Get("X-Vault-Namespace"))
			next(w, r)
		}
	}
	b.login, b.read = note(goodLogin(600)), note(answering(403, `{"errors":["permission denied"]}`))
	p := newProvider(t, func(c *vault.Config) { c.DefaultNamespace = "default" })
	_, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, map[string]string{"vaultNamespace": "/team/a/"}))
	testkit.Says(t, err, `in namespace "team/a"`)
	_, _ = p.Fetch(t.Context(), brokenRequest("w", b.URL, nil))
	// The login, the read, and the look at what is mounted there.
	testkit.Equal(t, "namespaces sent", spaces, []string{"team/a", "team/a", "team/a", "default", "default", "default"})
}

// TestRefusedAudience: a refused login names the audience that was sent, the
// role's field and tokenRequests.
func TestRefusedAudience(t *testing.T) {
	b := newBroken(t, nil)
	b.login = answering(http.StatusForbidden, `{"errors":["permission denied"]}`)
	for audience, want := range map[string]string{
		"vault":     "the audience of auth/kubernetes/role/app must be vault, or",
		"apiserver": "the audience of auth/kubernetes/role/app must be one of the API server's own",
	} {
		r := brokenRequest("v", b.URL, map[string]string{"audience": audience})
		r.Tokens[""] = r.Tokens["vault"]
		_, err := newProvider(t, nil).Fetch(t.Context(), r)
		testkit.Says(t, err, fmt.Sprintf("audience %q", audience), want, "tokenRequests")
	}
}

// pair writes a client certificate and its key to a directory.
func pair(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	made := testkit.Value(pki.SelfSigned(x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}))(t)
	testkit.Must(t, os.MkdirAll(dir, 0o750))
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	testkit.Must(t, errors.Join(os.WriteFile(cert, made.Cert, 0o400), os.WriteFile(key, made.Key, 0o400)))
	return cert, key
}

// certServer has the cert method at auth/cert, and others for logins by token.
type certServer struct {
	*httptest.Server
	ca      string
	revoked atomic.Int64
	shown   atomic.Int64 // handshakes with a client certificate
}

func newCertServer(t *testing.T) *certServer {
	c := &certServer{ca: filepath.Join(t.TempDir(), "ca.pem")}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := ""
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
			c.shown.Add(1)
		}
		switch {
		case r.URL.Path == "/v1/auth/cert/login" && name == "":
			answering(400, `{"errors":["client certificate must be supplied"]}`)(w, r)
		case r.URL.Path == "/v1/auth/cert/login":
			fmt.Fprintf(w, `{"auth":{"client_token":"token-of-%s","lease_duration":3600,"metadata":{"cert_name":"nodes","common_name":%q}}}`, name, name)
		case strings.HasSuffix(r.URL.Path, "/login"):
			goodLogin(600)(w, r)
		case r.URL.Path == "/v1/auth/token/revoke-self":
			c.revoked.Add(1)
			w.WriteHeader(http.StatusNoContent)
		default:
			fmt.Fprintf(w, `{"data":{"k":"read with %s"}}`, r.Header.Get("X-Vault-Token"))
		}
	}))
	c.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	c.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	c.StartTLS()
	t.Cleanup(c.Close)
	testkit.Must(t, os.WriteFile(c.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}), 0o400))
	return c
}

// TestAnotherPodsKey: a class cannot log in with the TLS key that another pod
// mounts, and its error does not tell whether there is one.
func TestAnotherPodsKey(t *testing.T) {
	s := newCertServer(t)
	pods := t.TempDir() // as /var/lib/kubelet/pods
	cert, key := pair(t, filepath.Join(pods, "8d0c1f6e", "volumes", "kubernetes.io~csi", "tls", "mount"), "payments.victim")
	listed := t.TempDir()
	for name, to := range map[string]string{"cert": cert, "key": key} {
		testkit.Must(t, os.Symlink(to, filepath.Join(listed, name)))
	}
	p := newProvider(t, func(c *vault.Config) {
		c.AllowedAddresses, c.ForbidSkipVerify, c.ClassFileDirs = []string{s.URL}, true, []string{listed}
		c.DefaultTLS.CACertFile, c.AllowCertAuth = s.ca, true
	})
	refused := func(cert, key string) string {
		t.Helper()
		payload, err := p.Fetch(t.Context(), brokenRequest("v", s.URL, map[string]string{
			"vaultAuthMountPath": "cert", "vaultTLSClientCertPath": cert, "vaultTLSClientKeyPath": key,
		}))
		if fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), "spec.parameters.vaultTLSClientCertPath") || !strings.Contains(err.Error(), "--class-file-dirs") {
			t.Fatalf("got %v and %s: %v", payload, fault.Of(err), err)
		}
		return strings.ReplaceAll(err.Error(), cert, "")
	}
	there := refused(cert, key)
	missing := refused(cert+"x", key+"x")
	testkit.Equal(t, "the errors tell whether a file exists", there, missing)
	refused(filepath.Join(listed, "cert"), filepath.Join(listed, "key"))
	if s.shown.Load() > 0 {
		t.Error("the server was shown the other pod's certificate")
	}
}

// TestOperatorsCertificate: the operator's client certificate is presented to
// the operator's server for the operator's auth mounts alone, and no class logs
// in with it unless the operator says so.
func TestOperatorsCertificate(t *testing.T) {
	s, other := newCertServer(t), newCertServer(t)
	cert, key := pair(t, t.TempDir(), "mayfly-driver")
	for name, c := range map[string]struct {
		params  map[string]string
		adjust  func(*vault.Config)
		want    string // in the error; empty for success
		reason  fault.Reason
		shown   bool
		revoked int64
	}{
		"the default mount":   {nil, nil, "", "", true, 0},
		"another mount":       {map[string]string{"vaultAuthMountPath": "jwt"}, nil, "", "", false, 0},
		"a listed mount":      {map[string]string{"vaultAuthMountPath": "/jwt/"}, func(c *vault.Config) { c.AllowedAuthMounts = []string{"jwt"} }, "", "", true, 0},
		"a forbidden mount":   {map[string]string{"vaultAuthMountPath": "cert"}, func(c *vault.Config) { c.AllowedAuthMounts = []string{"jwt"} }, `spec.parameters.vaultAuthMountPath: this node's operator does not allow the auth mount "cert"`, fault.NotAllowed, false, 0},
		"the cert method":     {map[string]string{"vaultAuthMountPath": "cert"}, nil, "client certificate must be supplied", fault.Rejected, false, 0},
		"listed cert method":  {map[string]string{"vaultAuthMountPath": "cert"}, func(c *vault.Config) { c.AllowedAuthMounts = []string{"cert"} }, "--vault-allow-cert-auth", fault.NotAllowed, true, 1},
		"default cert method": {nil, func(c *vault.Config) { c.DefaultAuthMount = "cert" }, "--vault-allow-cert-auth", fault.NotAllowed, true, 1},
		"allowed cert method": {nil, func(c *vault.Config) { c.DefaultAuthMount, c.AllowCertAuth = "cert", true }, "", "", true, 0},
		"its file by name":    {map[string]string{"vaultTLSClientCertPath": cert, "vaultTLSClientKeyPath": key}, nil, "--class-file-dirs", fault.NotAllowed, false, 0},
		"another server":      {map[string]string{"vaultAddress": other.URL, "vaultSkipTLSVerify": "true"}, nil, "", "", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			at := s
			if c.params["vaultAddress"] != "" {
				at = other
			}
			shown, revoked := at.shown.Load(), at.revoked.Load()
			p := newProvider(t, func(config *vault.Config) {
				config.DefaultAddress, config.DefaultTLS.CACertFile = s.URL, s.ca
				config.DefaultTLS.ClientCertFile, config.DefaultTLS.ClientKeyFile = cert, key
				if c.adjust != nil {
					c.adjust(config)
				}
			})
			_, err := p.Fetch(t.Context(), brokenRequest("v", s.URL, c.params))
			if c.want == "" && err != nil || c.want != "" && (fault.Of(err) != c.reason || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %s: %v, want %s saying %q", fault.Of(err), err, c.reason, c.want)
			}
			testkit.Equal(t, "the certificate was presented", at.shown.Load() > shown, c.shown)
			testkit.Equal(t, "Vault tokens revoked", at.revoked.Load()-revoked, c.revoked)
		})
	}
}

// TestEndlessFile: a fetch does not wait for a file that its class names. /proc/kmsg is a regular file
// of size 0, and a read of it waits for the kernel's next message.
func TestEndlessFile(t *testing.T) {
	if info, err := os.Stat("/proc/kmsg"); err != nil || !info.Mode().IsRegular() {
		t.Skip("no /proc/kmsg here: ", err)
	}
	p := newProvider(t, func(c *vault.Config) { c.ClassFileDirs = []string{"/proc"} })
	_, err := p.Fetch(t.Context(), brokenRequest("v", "https://127.0.0.1:1", map[string]string{"vaultCACertPath": "/proc/kmsg"}))
	testkit.Fails(t, err, fault.InvalidClass, `reading "/proc/kmsg" for spec.parameters.vaultCACertPath: `)
}
