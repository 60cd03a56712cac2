package akeyless

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const markJWT = "eyJtYXJrZXI.marker-jwt.x"

// clouds plays the token services of all clouds, and Akeyless.
type clouds struct {
	*httptest.Server
	t       *testing.T
	refuse  string // a path that is answered with 400
	cloudID string // what Akeyless got
	logins  int
}

func newClouds(t *testing.T) *clouds {
	c := &clouds{t: t}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *clouds) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == c.refuse {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"no trust for %s"}`, markJWT)
		return
	}
	switch r.URL.Path {
	case "/auth":
		var body struct {
			CloudID string `json:"cloud-id"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil { // not the test's goroutine
			c.t.Error(err)
		}
		c.cloudID = body.CloudID
		c.logins++
		fmt.Fprint(w, `{"token":"t-0123456789abcdef0123"}`)
	case "/get-secret-value":
		fmt.Fprint(w, `{"/a":"value"}`)
	case "/": // AWS STS
		c.want(r, map[string]string{"Action": "AssumeRoleWithWebIdentity", "RoleArn": "arn:aws:iam::1:role/web", "WebIdentityToken": markJWT, "RoleSessionName": "web@shop"})
		fmt.Fprint(w, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKID</AccessKeyId>
			<SecretAccessKey>SK</SecretAccessKey><SessionToken>ST</SessionToken></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
	case "/tenant/oauth2/v2.0/token": // Entra ID
		c.want(r, map[string]string{"client_id": "client", "client_assertion": markJWT, "grant_type": "client_credentials"})
		fmt.Fprint(w, `{"access_token":"azure-token"}`)
	case "/v1/token": // Google STS
		c.want(r, map[string]string{"audience": "//iam.googleapis.com/projects/1/p", "subject_token": markJWT})
		fmt.Fprint(w, `{"access_token":"federated"}`)
	case "/v1/projects/-/serviceAccounts/web@project.iam:generateIdToken":
		testkit.Equal(c.t, "the Authorization header", r.Header.Get("Authorization"), "Bearer federated")
		fmt.Fprint(w, `{"token":"google-token"}`)
	default:
		c.t.Errorf("asked for %s", r.URL.Path)
	}
}

func (c *clouds) want(r *http.Request, form map[string]string) {
	if err := r.ParseForm(); err != nil { // not the test's goroutine
		c.t.Error(err)
	}
	for name, want := range form {
		testkit.Equal(c.t, name, r.PostForm.Get(name), want)
	}
}

func cloudClass(kind string) map[string]string {
	params := map[string]string{keyAccessType: kind, keyAccessID: "p-1", keyObjects: `[{secretPath: /a, fileName: a, secretType: static}]`}
	switch kind {
	case "aws_iam":
		params[keyAWSRole] = "arn:aws:iam::1:role/web"
	case "azure_ad":
		params[keyAzureTenant], params[keyAzureClient] = "tenant", "client"
	case "gcp":
		params[keyGCPProvider], params[keyGCPAccount] = "https://iam.googleapis.com/projects/1/p", "web@project.iam"
	}
	return params
}

func (c *clouds) provider() *Provider {
	return newProvider(c.t, Config{
		DefaultGateway: c.URL, Settings: endpoint.Settings{MaxRetries: -1, AllowLocalAddresses: true}, Clouds: Clouds{AWS: c.URL, Azure: c.URL, Google: c.URL, GoogleCreds: c.URL},
	})
}

func cloudRequest(volume, kind string) provider.Request {
	token := identity.Token{JWT: secret.NewString(markJWT), Expires: time.Now().Add(time.Hour), Claims: identity.Claims{ServiceAccountUID: "uid"}}
	return provider.Request{
		Volume: volume, Class: classOf(cloudClass(kind)),
		Pod:    identity.Pod{Namespace: "shop", Name: volume, UID: "uid-" + volume, ServiceAccount: "web"},
		Tokens: identity.Tokens{"sts.amazonaws.com": token, "api://AzureADTokenExchange": token, "https://iam.googleapis.com/projects/1/p": token},
	}
}

func TestCloudIdentities(t *testing.T) {
	for kind, check := range map[string]func(t *testing.T, id string){
		"aws_iam":  checkAWS,
		"azure_ad": func(t *testing.T, id string) { wantText(t, id, "azure-token") },
		"gcp":      func(t *testing.T, id string) { wantText(t, id, "google-token") },
	} {
		t.Run(kind, func(t *testing.T) {
			c := newClouds(t)
			p := c.provider()
			for _, volume := range []string{"a", "b"} {
				testkit.Value(p.Fetch(t.Context(), cloudRequest(volume, kind)))(t)
			}
			id := testkit.Value(base64.StdEncoding.DecodeString(c.cloudID))(t)
			check(t, string(id))
			if c.logins != 1 { // a cloud knows of the service account only
				t.Errorf("%d logins of two pods", c.logins)
			}
		})
	}
}

func wantText(t *testing.T, got, want string) {
	t.Helper()
	testkit.Equal(t, "cloud identity", got, want)
}

func checkAWS(t *testing.T, id string) {
	t.Helper()
	var parts map[string]string
	testkit.Must(t, json.Unmarshal([]byte(id), &parts))
	unpack := func(name string) string {
		text, err := base64.StdEncoding.DecodeString(parts["sts_request_"+name])
		testkit.Check(t, err)
		return string(text)
	}
	wantText(t, parts["sts_request_method"], "POST")
	wantText(t, unpack("url"), "https://sts.amazonaws.com/")
	wantText(t, unpack("body"), "Action=GetCallerIdentity&Version=2011-06-15")
	var headers map[string][]string
	testkit.Must(t, json.Unmarshal([]byte(unpack("headers")), &headers))
	authorization := headers["Authorization"][0]
	if !strings.HasPrefix(authorization, "AWS4-HMAC-SHA256 Credential=AKID/") || strings.Contains(id+fmt.Sprint(headers), "SK") {
		t.Errorf("headers %v", headers)
	}
	wantText(t, headers["X-Amz-Security-Token"][0], "ST")
}

// TestSigningKey takes the example of AWS' own documentation.
func TestSigningKey(t *testing.T) {
	got := hex.EncodeToString(signingKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam"))
	wantText(t, got, "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9")
}

// TestSignature signs a request and checks it as the other side does: from the
// headers that it names, in their order.
func TestSignature(t *testing.T) {
	body := url.Values{"a": {"b"}}.Encode()
	headers := awsKeys{"AKID", "SK", "ST"}.sign(body, time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC))
	_, names, _ := strings.Cut(headers["Authorization"][0], "SignedHeaders=")
	names, signature, _ := strings.Cut(names, ", Signature=")
	canonical := "POST\n/\n\n"
	for name := range strings.SplitSeq(names, ";") {
		canonical += name + ":" + headers[http.CanonicalHeaderKey(name)][0] + "\n"
	}
	canonical += "\n" + names + "\n" + hexSum(body)
	want := mac(signingKey("SK", "20310501", "us-east-1", "sts"), "AWS4-HMAC-SHA256\n20310501T120000Z\n20310501/us-east-1/sts/aws4_request\n"+hexSum(canonical))
	wantText(t, signature, hex.EncodeToString(want))
}

func TestCloudRefuses(t *testing.T) {
	for kind, path := range map[string]string{
		"aws_iam": "/", "azure_ad": "/tenant/oauth2/v2.0/token", "gcp": "/v1/projects/-/serviceAccounts/web@project.iam:generateIdToken",
	} {
		c := newClouds(t)
		c.refuse = path
		_, err := c.provider().Fetch(t.Context(), cloudRequest("a", kind))
		if fault.Of(err) != fault.Denied {
			t.Errorf("%s: reason %s: %v", kind, fault.Of(err), err)
			continue
		}
		testkit.Says(t, err, "no trust for [redacted]", "system:serviceaccount:shop:web", "access type "+kind)
		if c.logins != 0 || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: %d logins, %v", kind, c.logins, err)
		}
	}
}
