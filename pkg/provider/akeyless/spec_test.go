package akeyless

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func newProvider(t testing.TB, c Config) *Provider {
	t.Helper()
	c.IdentityKey = secret.NewBytes([]byte("0123456789abcdef0123456789abcdef"))
	p := testkit.Value(New(c))(t)
	t.Cleanup(p.Close)
	return p
}

func classOf(params map[string]string) *class.Class {
	return &class.Class{Ref: class.Ref{Namespace: "shop", Name: "app"}, Provider: Name, Parameters: params}
}

// base is a class that works, with parameters changed in pairs.
func base(more ...string) map[string]string {
	params := map[string]string{
		keyAccessType: "k8s", keyAccessID: "p-1", keyK8sConfig: "cluster", keyObjects: `[{secretPath: /a, fileName: a}]`,
	}
	for i := 0; i < len(more); i += 2 {
		params[more[i]] = more[i+1]
	}
	return params
}

func objects(text string) map[string]string { return base(keyObjects, text) }

func TestMistakesAreNamed(t *testing.T) {
	p := newProvider(t, Config{})
	for want, params := range map[string]map[string]string{
		"spec.parameters.akeylessAccessID: Required value":                            base(keyAccessID, ""),
		"spec.parameters.akeylessK8sAuthConfigName: Required value":                   base(keyK8sConfig, ""),
		`spec.parameters.akeylessAccessType: Unsupported value: "saml"`:               base(keyAccessType, "saml"),
		`spec.parameters.akeylessGatewayURL: Invalid value: "gw:8080"`:                base(keyGateway, "gw:8080"),
		`spec.parameters.akeylessK8sGatewayURL: Invalid value: "gw"`:                  base(keyK8sGateway, "gw"),
		`spec.parameters.akeylessSkipTLSVerify: Invalid value: "maybe"`:               base(keySkipVerify, "maybe"),
		`spec.parameters.sessionSharing: Unsupported value: "node"`:                   base(keySharing, "node"),
		"spec.parameters.akeylessTLSClientKeyPath: Required value":                    base(keyClientCert, "/c"),
		"spec.parameters.akeylessAWSRoleARN: Required value":                          base(keyAccessType, "aws_iam"),
		"spec.parameters.akeylessAzureTenantID: Required value":                       base(keyAccessType, "azure_ad"),
		"spec.parameters.akeylessGCPWorkloadProvider: Required value":                 base(keyAccessType, "gcp"),
		"spec.parameters.objects: Required value":                                     base(keyObjects, ""),
		"spec.parameters.objects[0].fileName: Required value":                         objects(`[{secretPath: /a}]`),
		"spec.parameters.objects[0].secretPath: Required value":                       objects(`[{fileName: a}]`),
		`spec.parameters.objects[0].secretPath: Invalid value: "/"`:                   objects(`[{fileName: a, secretPath: /}]`),
		`spec.parameters.objects[0].secretPath: Invalid value: "": line 1: must be`:   objects(`[{fileName: a, secretPath: ""}]`),
		`spec.parameters.akeylessGatewayURL: Invalid value: "[redacted]"`:             base(keyGateway, "https://u:marker@gw"),
		`spec.parameters.akeylessGatewayURL: Invalid value: "unix:///s"`:              base(keyGateway, "unix:///s"),
		`spec.parameters.objects[1].fileName: Invalid value: "../b"`:                  objects(`[{secretPath: /a, fileName: a}, {secretPath: /b, fileName: ../b}]`),
		`spec.parameters.objects[1].fileName: Duplicate value: "a"`:                   objects(`[{secretPath: /a, fileName: a}, {secretPath: /b, fileName: a}]`),
		"secretType: Invalid value: \"\"":                                             objects(`[{secretPath: /a, fileName: a, secretType: [static]}]`),
		`spec.parameters.objects[0].secretVersion: Invalid value: "0"`:                objects(`[{secretPath: /a, fileName: a, secretVersion: 0}]`),
		"spec.parameters.objects[0].secretVersion: Forbidden":                         objects(`[{secretPath: /a, fileName: a, secretType: dynamic, secretVersion: 2}]`),
		"spec.parameters.objects[0].objectName: Forbidden: says the same as fileName": objects(`[{secretPath: /a, fileName: a, objectName: b}]`),
		"spec.parameters.objects[0].secretArgs: Invalid value: \"\": line 1: needs a": objects(`[{secretPath: /a, fileName: a, secretArgs: {x: y}}]`),
		`a static item takes no argument "x"`:                                         objects(`[{secretPath: /a, fileName: a, secretType: static, secretArgs: {x: y}}]`),
		`takes no argument "commonname2"; did you mean common-name?`:                  objects(`[{secretPath: /a, fileName: a, secretType: pki, secretArgs: {commonname2: y}}]`),
		"keyType: must be one of ec256":                                               objects(`[{secretPath: /a, fileName: a, secretType: pki, secretArgs: {keyType: dsa}}]`),
		"do not go together":                                                          objects(`[{secretPath: /a, fileName: a, secretType: pki, secretArgs: {keyType: ec256, csrDataBase64: x}}]`),
		"timeout: must be a number of seconds":                                        objects(`[{secretPath: /a, fileName: a, secretType: dynamic, secretArgs: {timeout: 1h}}]`),
		"must be a list of texts":                                                     objects(`[{secretPath: /a, fileName: a, secretType: pki, secretArgs: {altNames: [1]}}]`),
		`spec.parameters.objects[0].gid: Invalid value: "4294967295"`:                 objects(`[{secretPath: /a, fileName: a, uid: 1, gid: 4294967295}]`),
		`spec.parameters.objects[0].filePermission: Invalid value: "rw"`:              objects(`[{secretPath: /a, fileName: a, filePermission: rw}]`),
		`spec.parameters.akeylessAccessKey: Invalid value: "[redacted]"`:              base(keyAccessKey, "marker\n"),
	} {
		_, err := p.Validate(classOf(params))
		testkit.Fails(t, err, fault.InvalidClass, want)
		if err != nil && strings.Contains(err.Error(), "marker") {
			t.Errorf("a secret shows: %v", err)
		}
	}
}

func TestWarnings(t *testing.T) {
	p := newProvider(t, Config{})
	for want, params := range map[string]map[string]string{
		"spec.parameters.akeylesAccessID: unknown; did you mean akeylessAccessID?": base("akeylesAccessID", "x"),
		"spec.parameters.objects[0].secretpath: unknown (line 1); did you mean":    objects(`[{secretPath: /a, fileName: a, secretpath: b}]`),
		`objects[0].secretType: line 1: "ssh" is not static, rotated`:              objects(`[{secretPath: /a, fileName: a, secretType: ssh}]`),
		"spec.parameters.akeylessAccessKey: everybody who may read the class":      base(keyAccessType, "access_key", keyAccessKey, "k"),
		"spec.parameters.akeylessAzureObjectID: chooses among":                     base(keyAccessType, "azure_ad", keyAzureTenant, "t", keyAzureClient, "c", keyAzureObjectID, "o"),
		"spec.parameters.akeylessGatewayURL: is a plain http address":              base(keyGateway, "http://gw", keySkipVerify, "true"),
	} {
		warnings, err := p.Validate(classOf(params))
		if suspect := strings.Contains(want, "did you mean"); suspect != (err != nil) || !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("%v, warnings %q, want %q", err, warnings, want)
		}
	}
}

func TestOperatorsRules(t *testing.T) {
	p := newProvider(t, Config{DefaultGateway: "https://own:8081", Servers: endpoint.Servers{AllowedAddresses: []string{"https://*.shop:*"}, ForbidSkipVerify: true}})
	for name, c := range map[string]struct {
		params  map[string]string
		allowed bool
	}{
		"default":             {base(), true},
		"listed":              {base(keyGateway, "https://gw.shop:8081/v2"), true},
		"public":              {base(keyGateway, PublicAddress), false},
		"plain":               {base(keyGateway, "http://gw.shop:8081"), false},
		"token sent on":       {base(keyK8sGateway, "https://evil:8000"), false},
		"token sent on, fine": {base(keyK8sGateway, "https://b.shop:8000"), true},
		"skip":                {base(keySkipVerify, "true"), false},
	} {
		_, err := p.Validate(classOf(c.params))
		if (err == nil) != c.allowed || (err != nil && fault.Of(err) != fault.NotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without a gateway of its own, an operator's list covers Akeyless' too.
	p = newProvider(t, Config{Servers: endpoint.Servers{AllowedAddresses: []string{"https://gw"}}})
	testkit.Failure(p.Validate(classOf(base())))(t, fault.NotAllowed)
}

func TestDefaults(t *testing.T) {
	p := newProvider(t, Config{
		DefaultAccessID: "p-op", DefaultK8sAuthConfigName: "op", DefaultAudience: "aud", Servers: endpoint.Servers{DefaultTLS: endpoint.TLS{CACertFile: "/ca", ServerName: "gw"}},
	})
	l := func(params map[string]string) login {
		t.Helper()
		params[keyObjects] = `[{secretPath: a, fileName: a}]`
		s := testkit.Value(p.newSpec(classOf(params)))(t)
		return s.login
	}
	got := l(map[string]string{})
	if got.Type != typeK8s || got.AccessID != "p-op" || got.K8sConfig != "op" || got.Audience != "aud" || got.Target.Address.String() != PublicAddress+":443" ||
		got.Target.TLS.CACertFile != "/ca" || got.K8sGateway != got.Target.Address.String() {
		t.Errorf("%+v", got)
	}
	got = l(map[string]string{keyCA: "pem", keyAudience: "other", keyServerName: "x"})
	if got.Target.TLS != (endpoint.TLS{CACert: "pem", ServerName: "x"}) || got.Audience != "other" {
		t.Errorf("%+v", got)
	}
	p = newProvider(t, Config{DefaultAccessID: "p-op", DefaultK8sAuthConfigName: "op", DefaultGateway: "https://gw", Servers: endpoint.Servers{DefaultFallback: "https://gw-dr"}})
	if got, own := l(map[string]string{}), l(map[string]string{keyGateway: "https://other"}); got.Fallback.Address.String() != "https://gw-dr:443" || !own.Fallback.Address.IsZero() {
		t.Errorf("second gateways %s, and %s of a class with a gateway of its own", got.Fallback.Address, own.Fallback.Address)
	}
	for want, params := range map[accessType]map[string]string{
		typeUID:       {keyUIDToken: "u-1"},
		typeAccessKey: {keyAccessKey: "k"},
	} {
		testkit.Equal(t, "type", l(params).Type, want)
	}
	if got := l(map[string]string{keyAccessType: "gcp", keyGCPProvider: "//iam.googleapis.com/p", keyGCPAccount: "a@b"}); got.Audience != "https://iam.googleapis.com/p" || got.GCPAudience != "akeyless.io" {
		t.Errorf("%+v", got)
	}
}

func TestObjectsShareItems(t *testing.T) {
	p := newProvider(t, Config{})
	_, err := p.newSpec(classOf(objects(`
- {secretPath: a/b, fileName: [1], secretType: pki, secretArgs: {common-name: x, ttl: 60}}
- {secretPath: /a/b/, objectName: 2, secretType: PKI_CERT_ISSUER, secretArgs: {ttl: "60", commonName: x}}
- {secretPath: /a/b, fileName: 3, secretType: pki, secretArgs: {commonName: y, ttl: 60}}
- {secretPath: /a/b, fileName: 4}`)))
	testkit.Says(t, err, "objects[0].fileName")
	s, err := p.newSpec(classOf(objects(`
- {secretPath: a/b, fileName: "1", secretType: pki, secretArgs: {common-name: x, ttl: 60}}
- {secretPath: /a/b/, objectName: "2", secretType: PKI_CERT_ISSUER, secretArgs: {ttl: "60", commonName: x}}
- {secretPath: /a/b, fileName: "3", secretType: pki, secretArgs: {commonName: y, ttl: 60}}
- {secretPath: /a/b, fileName: "4"}`)))
	testkit.Must(t, err)
	if len(s.Requests) != 3 || s.Objects[0].Request != s.Objects[1].Request || s.Objects[0].Request == s.Objects[2].Request {
		t.Errorf("%d items for %v", len(s.Requests), s.Objects)
	}
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"timeouts":        {Settings: endpoint.Settings{RequestTimeout: -1}},
		"go together":     {Servers: endpoint.Servers{DefaultTLS: endpoint.TLS{ClientCertFile: "/c"}}},
		"both forbidden":  {Servers: endpoint.Servers{DefaultTLS: endpoint.TLS{SkipVerify: true}, ForbidSkipVerify: true}},
		"default gateway": {DefaultGateway: "gw"},
		"default fallback gateway: must be a URL":                 {Servers: endpoint.Servers{DefaultFallback: "gw"}},
		"default fallback gateway: it is the server of the first": {Servers: endpoint.Servers{DefaultFallback: PublicAddress + "/v2"}},
		"default fallback gateway: it must be https as the first": {DefaultGateway: "https://a", Servers: endpoint.Servers{DefaultFallback: "http://b"}},
		`allowed address "x"`:                                     {Servers: endpoint.Servers{AllowedAddresses: []string{"x"}}},
	} {
		testkit.Error(New(c))(t, want)
	}
}

func FuzzClass(f *testing.F) {
	f.Add(`[{secretPath: /a, fileName: a, secretType: pki, secretArgs: {commonName: x, altNames: [a, 1.2.3.4]}}]`, "k8s", "https://gw")
	f.Add(`[{secretPath: /a, objectName: a, secretType: dynamic, secretArgs: {k: {x: [1]}, timeout: 5}}]`, "", "")
	f.Add("- {secretPath: /a, fileName: a, secretVersion: 3, encoding: hex, optional: yes}", "jwt", "http://[::1]:1/v2")
	p := newProvider(f, Config{})
	f.Fuzz(func(t *testing.T, list, kind, gateway string) {
		s, err := p.newSpec(classOf(base(keyObjects, list, keyAccessType, kind, keyGateway, gateway)))
		if err != nil {
			testkit.Fails(t, err, fault.InvalidClass)
			return
		}
		for _, o := range s.Objects {
			if name := itemOf(o.Request).name; o.Name == "" || name == "" || name[0] != '/' || fmt.Sprint(o) == "" {
				t.Errorf("object %+v of %q", o, list)
			}
		}
	})
}

// docs/akeyless.md lists the parameters, fields and arguments that exist, and
// no others.
func TestDocumented(t *testing.T) {
	doc := testkit.Value(os.ReadFile("../../../docs/akeyless.md"))(t)
	section := func(title string) string {
		_, rest, found := strings.Cut(string(doc), "\n## "+title+"\n")
		if !found {
			t.Fatalf("there is no section %q", title)
		}
		text, _, _ := strings.Cut(rest, "\n## ")
		return text
	}
	for title, want := range map[string][]string{
		"Parameters":   parameterKeys(),
		"Access types": accessTypes(),
	} {
		compare(t, title, rows(section(title)), want)
	}
	kinds := []string{string(static), string(rotated), string(dynamic), string(certificate), string(pki)}
	compare(t, "Objects", rows(section("Objects")), append(objectFields(), kinds...))
	compare(t, "When a secret is looked at again", rows(section("When a secret is looked at again")), kinds)
	for _, k := range kinds {
		row := regexp.MustCompile("(?m)^\\| `" + k + "` \\|.*$").FindString(section("Objects"))
		for _, name := range argumentNames(kind(k)) {
			if !strings.Contains(plainName(row), "`"+plainName(name)+"`") {
				t.Errorf("the arguments of %s lack %s: %s", k, name, row)
			}
		}
	}
}

// rows are the names in the first column of tables.
func rows(text string) []string {
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z0-9_]+)` \\|").FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

func compare(t *testing.T, title string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	testkit.Equal(t, "section "+title+", and the code", got, want)
}

// The class in docs/akeyless.md works.
func TestDocumentedClass(t *testing.T) {
	doc := testkit.Value(os.ReadFile("../../../docs/akeyless.md"))(t)
	_, rest, _ := strings.Cut(string(doc), "```yaml\n")
	manifest, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no class")
	}
	warnings, err := newProvider(t, Config{}).Validate(parsed(t, manifest))
	if err != nil || len(warnings) > 0 {
		t.Errorf("%v, warnings %q", err, warnings)
	}
}

func parsed(t *testing.T, manifest string) *class.Class {
	t.Helper()
	objects, _, err := class.ParseManifest([]byte(manifest))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d classes, %v", len(objects), err)
	}
	c, _, err := class.Parse(objects[0])
	testkit.Must(t, err)
	return c
}

// TestClassFiles: a class names files beneath the listed directories alone, and
// the operator's client certificate goes to the operator's gateway alone.
func TestClassFiles(t *testing.T) {
	own := endpoint.TLS{CACertFile: "/own/ca", ClientCertFile: "/own/cert", ClientKeyFile: "/own/key"}
	p := newProvider(t, Config{
		DefaultGateway: "https://own:8081", Servers: endpoint.Servers{DefaultTLS: own, ForbidSkipVerify: true}, Settings: endpoint.Settings{ClassFileDirs: []string{"/listed"}},
	})
	for name, c := range map[string]struct {
		params []string
		want   endpoint.TLS
		says   string
	}{
		"nothing":             {nil, own, ""},
		"another gateway":     {[]string{keyGateway, "https://other"}, own.WithoutClient(), ""},
		"another path":        {[]string{keyGateway, "https://own:8081/v2"}, own, ""},
		"listed authority":    {[]string{keyCAFile, "/listed/ca"}, endpoint.TLS{CACertFile: "/listed/ca", ClientCertFile: "/own/cert", ClientKeyFile: "/own/key"}, ""},
		"authority elsewhere": {[]string{keyCAFile, "/etc/ssl/x"}, endpoint.TLS{}, "spec.parameters.akeylessCACertPath"},
		"directory elsewhere": {[]string{keyCADir, "/listed/../etc"}, endpoint.TLS{}, "spec.parameters.akeylessCADirectory"},
		"pair elsewhere":      {[]string{keyClientCert, "/own/cert", keyClientKey, "/own/key"}, endpoint.TLS{}, "spec.parameters.akeylessTLSClientCertPath"},
		"own authority":       {[]string{keyCA, "PEM"}, endpoint.TLS{}, "spec.parameters.akeylessCACert: this node's operator does not allow skipping"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := p.newSpec(classOf(base(append([]string{keyGateway, "https://own:8081"}, c.params...)...)))
			switch {
			case c.says == "" && (err != nil || s.login.Target.TLS != c.want):
				t.Errorf("%+v, %v", s.login.Target, err)
			case c.says != "" && (fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %s: %v", fault.Of(err), err)
			}
		})
	}
	if _, err := New(Config{Settings: endpoint.Settings{ClassFileDirs: []string{filepath.Join("a", "b")}}}); err == nil {
		t.Error("a relative directory is taken")
	}
}

// TestLocalAddresses: a class reaches nothing on the node itself, and is told so
// at once.
func TestLocalAddresses(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer s.Close()
	p := newProvider(t, Config{Settings: endpoint.Settings{MaxRetries: 2}})
	r := provider.Request{
		Volume: "v", Pod: identity.Pod{Namespace: "shop", Name: "v", UID: "uid", ServiceAccount: "web"},
		Class: classOf(base(keyGateway, s.URL, keyAccessType, string(typeAccessKey), keyAccessKey, "key")),
	}
	_, err := p.Fetch(t.Context(), r)
	if fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), "127.0.0.1 is an address of the node itself") || asked > 0 {
		t.Errorf("asked %d times, %s: %v", asked, fault.Of(err), err)
	}
}

// TestForeignWords has each status with each body that is not Akeyless' error:
// an outage, and never a denial, a missing item or a wrong request.
func TestForeignWords(t *testing.T) {
	for _, status := range []int{302, 400, 401, 403, 404, 405, 408, 413, 429, 451, 499, 500, 502, 503, 504} {
		for _, body := range []string{
			"", "default backend - 404", "<html>404 Not Found", "RBAC: access denied", "[]", "null", "{}",
			`{"message":"no Route matched with those values"}`, `{"message":"item not found"}`, `{"errors":["not found"]}`,
			`{"timestamp":1,"status":404,"error":"Not Found","path":"/get-secret-value"}`, `{"error":""}`, `{"error":null}`,
		} {
			r := &endpoint.Reply{Status: status, Body: []byte(body)}
			words, _ := wordsOf(r)
			if reason := reasonOf(r, words); !reason.Outage() {
				t.Errorf("%d %s: %s", status, body, reason)
			}
		}
	}
}

func TestOwnWords(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		want   fault.Reason
	}{
		{401, `{"error":"Unauthorized"}`, fault.Denied},
		{403, `{"error":"Forbidden: reading /a is denied"}`, fault.Denied},
		{404, `{"error":"unknown command"}`, fault.NotFound},
		{500, `{"error":"item /a does not exist"}`, fault.NotFound},
		{400, `{"error":{"deep":["why"]}}`, fault.Rejected},
		{500, `{"error":"producer failed"}`, fault.Unavailable},
		{429, `{"error":"slow down"}`, fault.RateLimited},
	} {
		r := &endpoint.Reply{Status: tc.status, Body: []byte(tc.body)}
		words, _ := wordsOf(r)
		if reason := reasonOf(r, words); reason != tc.want {
			t.Errorf("%d %s: %s, want %s", tc.status, tc.body, reason, tc.want)
		}
	}
}

// TestCloudWords tells a cloud's denial from a proxy's.
func TestCloudWords(t *testing.T) {
	for body, want := range map[string]fault.Reason{
		`{"error":"invalid_client","error_description":"no such application"}`: fault.Denied,
		`<Error><Message>Not authorized</Message></Error>`:                     fault.Denied,
		"": fault.BadAnswer, "<html>blocked": fault.BadAnswer, `{"message":"Forbidden"}`: fault.BadAnswer,
	} {
		testkit.Fails(t, cloudRefusal(&endpoint.Endpoint{}, call{}, &endpoint.Reply{Status: 403, Body: []byte(body)}), want)
	}
}

func TestFarExpiry(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	far := authAnswer{}
	far.Creds.Expiry = "9000000000000000000"
	if end := far.expires(now); end.Year() > 9999 {
		t.Errorf("a token until %s has no form in JSON", end)
	}
}
