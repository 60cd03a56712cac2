package issuer_test

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authv1 "k8s.io/api/authentication/v1"

	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var (
	now = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	web = issuer.PodRef{
		Namespace: "shop", Pod: "web-0", PodUID: "11111111-0000-4000-8000-000000000001",
		ServiceAccount: "web", ServiceAccountUID: "22222222-0000-4000-8000-000000000002",
		Node: "node-a",
	}
)

func start(t *testing.T) *issuer.Issuer {
	t.Helper()
	i := testkit.Value(issuer.Start(t.Context(), issuer.Options{Now: func() time.Time { return now }}))(t)
	t.Cleanup(func() { testkit.Check(t, i.Close()) })
	return i
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	testkit.Must(t, json.Unmarshal(testkit.Value(testkit.Page(t.Context(), url))(t), into))
}

// claims verifies a token as a relying party does: through discovery alone.
func claims(t *testing.T, i *issuer.Issuer, token string) map[string]any {
	t.Helper()
	var discovery struct {
		Issuer     string                    `json:"issuer"`
		JWKSURI    string                    `json:"jwks_uri"`
		Algorithms []jose.SignatureAlgorithm `json:"id_token_signing_alg_values_supported"`
	}
	get(t, i.URL()+"/.well-known/openid-configuration", &discovery)
	if discovery.Issuer != i.URL() || discovery.JWKSURI != i.JWKSURL() {
		t.Fatalf("discovery says %+v", discovery)
	}
	var keys jose.JSONWebKeySet
	get(t, discovery.JWKSURI, &keys)
	parsed := testkit.Value(jwt.ParseSigned(token, discovery.Algorithms))(t)
	all := map[string]any{}
	testkit.Must(t, parsed.Claims(keys, &all))
	return all
}

func TestTokenShape(t *testing.T) {
	i := start(t)
	token, exp := i.Issue(web, "vault", 20*time.Minute)
	if want := now.Add(20 * time.Minute); !exp.Equal(want) {
		t.Errorf("expires %v, want %v", exp, want)
	}
	got := claims(t, i, token)
	if jti, _ := got["jti"].(string); len(jti) != 36 {
		t.Errorf("jti %q is not a UUID", jti)
	}
	delete(got, "jti")
	k8s, _ := got["kubernetes.io"].(map[string]any)
	node, _ := k8s["node"].(map[string]any)
	if uid, _ := node["uid"].(string); len(uid) != 36 {
		t.Errorf("node uid %q is not a UUID", uid)
	}
	delete(node, "uid")
	want := map[string]any{
		"iss": i.URL(), "sub": "system:serviceaccount:shop:web", "aud": []any{"vault"},
		"iat": float64(now.Unix()), "nbf": float64(now.Unix()), "exp": float64(exp.Unix()),
		"kubernetes.io": map[string]any{
			"namespace":      "shop",
			"node":           map[string]any{"name": "node-a"},
			"pod":            map[string]any{"name": "web-0", "uid": web.PodUID},
			"serviceaccount": map[string]any{"name": "web", "uid": web.ServiceAccountUID},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("claims\n%v\nwant\n%v", got, want)
	}
}

func TestTokenWithoutPod(t *testing.T) {
	i := start(t)
	token, _ := i.Issue(issuer.PodRef{Namespace: "shop", ServiceAccount: "web"}, "", time.Hour)
	again, _ := i.Issue(issuer.PodRef{Namespace: "shop", ServiceAccount: "web"}, "", time.Hour)
	got := claims(t, i, token)
	if aud := got["aud"]; !reflect.DeepEqual(aud, []any{i.URL()}) {
		t.Errorf("audience %v, want the API server's", aud)
	}
	k8s, _ := got["kubernetes.io"].(map[string]any)
	if k8s["pod"] != nil || k8s["node"] != nil {
		t.Errorf("claims name a pod or node: %v", k8s)
	}
	if other := claims(t, i, again); !reflect.DeepEqual(other["kubernetes.io"], got["kubernetes.io"]) {
		t.Errorf("derived UIDs differ: %v, %v", other, got)
	} else if other["jti"] == got["jti"] {
		t.Error("two tokens have one jti")
	}
}

func TestCSITokens(t *testing.T) {
	i := start(t)
	var got map[string]struct {
		Token               string `json:"token"`
		ExpirationTimestamp string `json:"expirationTimestamp"`
	}
	testkit.Must(t, json.Unmarshal([]byte(i.CSITokens(web, "vault", "")), &got))
	if len(got) != 2 {
		t.Fatalf("%d tokens, want 2", len(got))
	}
	for audience, want := range map[string]string{"vault": "vault", "": i.URL()} {
		if expires := got[audience].ExpirationTimestamp; expires != "2031-05-01T13:00:00Z" {
			t.Errorf("audience %q expires at %q", audience, expires)
		}
		if aud := claims(t, i, got[audience].Token)["aud"]; !reflect.DeepEqual(aud, []any{want}) {
			t.Errorf("audience %q: token is for %v", audience, aud)
		}
	}
}

func TestClose(t *testing.T) {
	i := testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	for range 2 {
		testkit.Must(t, i.Close())
	}
	if resp, err := http.Get(i.JWKSURL()); err == nil {
		resp.Body.Close()
		t.Error("serves after Close")
	}
}

// review posts a TokenReview and returns the status code and the answer.
func review(t *testing.T, i *issuer.Issuer, bearer, body string) (int, string) {
	t.Helper()
	req := testkit.Value(http.NewRequestWithContext(t.Context(), http.MethodPost,
		i.URL()+"/apis/authentication.k8s.io/v1/tokenreviews", strings.NewReader(body)))(t)
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp := testkit.Value(http.DefaultClient.Do(req))(t)
	defer resp.Body.Close()
	data := testkit.Value(io.ReadAll(resp.Body))(t)
	return resp.StatusCode, string(data)
}

func status(t *testing.T, i *issuer.Issuer, token string, audiences ...string) authv1.TokenReviewStatus {
	t.Helper()
	body := testkit.Value(json.Marshal(authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: audiences}}))(t)
	code, answer := review(t, i, i.ReviewerToken(), string(body))
	if code != http.StatusCreated {
		t.Fatalf("TokenReview answered %d: %s", code, answer)
	}
	var got authv1.TokenReview
	testkit.Must(t, json.Unmarshal([]byte(answer), &got))
	if got.Kind != "TokenReview" || got.APIVersion != "authentication.k8s.io/v1" {
		t.Errorf("answer is a %s %s", got.APIVersion, got.Kind)
	}
	return got.Status
}

func TestReviewOfGoodToken(t *testing.T) {
	i := start(t)
	token, _ := i.Issue(web, "vault", time.Hour)
	jti, _ := claims(t, i, token)["jti"].(string)
	got := status(t, i, token, "vault", "other")
	nodeUID := got.User.Extra["authentication.kubernetes.io/node-uid"]
	if len(nodeUID) != 1 || len(nodeUID[0]) != 36 {
		t.Errorf("node uid %q", nodeUID)
	}
	delete(got.User.Extra, "authentication.kubernetes.io/node-uid")
	want := authv1.TokenReviewStatus{
		Authenticated: true,
		Audiences:     []string{"vault"},
		User: authv1.UserInfo{
			Username: "system:serviceaccount:shop:web",
			UID:      web.ServiceAccountUID,
			Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"},
			Extra: map[string]authv1.ExtraValue{
				"authentication.kubernetes.io/credential-id": {"JTI=" + jti},
				"authentication.kubernetes.io/pod-name":      {"web-0"},
				"authentication.kubernetes.io/pod-uid":       {web.PodUID},
				"authentication.kubernetes.io/node-name":     {"node-a"},
			},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("status\n%+v\nwant\n%+v", got, want)
	}
}

func TestReviewOfBadTokens(t *testing.T) {
	i, stranger := start(t), start(t)
	issue := func(by *issuer.Issuer, ttl time.Duration) string {
		token, _ := by.Issue(web, "vault", ttl)
		return token
	}
	good := issue(i, time.Hour)
	header, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	foreign := strings.Split(issue(stranger, time.Hour), ".")
	for name, tc := range map[string]struct {
		token     string
		audiences []string
		want      string
	}{
		"expired":          {issue(i, -2*time.Minute), []string{"vault"}, "service account token has expired"},
		"within leeway":    {issue(i, -30*time.Second), []string{"vault"}, ""},
		"other audience":   {good, []string{"openbao"}, `token audiences ["vault"] is invalid for the target audiences ["openbao"]`},
		"default audience": {good, nil, "is invalid for the target audiences"},
		"other issuer":     {strings.Join(foreign, "."), []string{"vault"}, "error in cryptographic primitive"},
		"swapped claims":   {header + "." + foreign[1] + "." + signature, []string{"vault"}, "error in cryptographic primitive"},
		"no signature":     {header + "." + payload + ".", []string{"vault"}, "error in cryptographic primitive"},
		"not a token":      {"hvs.something", []string{"vault"}, "compact JWS format must have three parts"},
	} {
		t.Run(name, func(t *testing.T) {
			got := status(t, i, tc.token, tc.audiences...)
			if got.Authenticated != (tc.want == "") || !strings.Contains(got.Error, tc.want) {
				t.Errorf("got %+v, want error %q", got, tc.want)
			}
			if tc.want != "" && (!strings.HasPrefix(got.Error, "[invalid bearer token, ") || got.User.Username != "") {
				t.Errorf("a refusal reads %+v", got)
			}
		})
	}
}

func TestDeletion(t *testing.T) {
	i := start(t)
	sibling := web
	sibling.Pod, sibling.PodUID = "web-1", ""
	recreated := sibling
	recreated.ServiceAccountUID = "33333333-0000-4000-8000-000000000003"
	authenticated := func(p issuer.PodRef) bool {
		token, _ := i.Issue(p, "vault", time.Hour)
		return status(t, i, token, "vault").Authenticated
	}
	if !authenticated(web) || !authenticated(sibling) {
		t.Fatal("refused before any deletion")
	}
	i.DeletePod(web)
	if authenticated(web) || !authenticated(sibling) {
		t.Error("deleting a pod must end its tokens, and only those")
	}
	i.DeletePod(sibling) // a derived UID
	if authenticated(sibling) {
		t.Error("a pod with a derived UID is not deleted")
	}
	sibling.Pod = "web-2"
	recreated.Pod = "web-2"
	i.DeleteServiceAccount(web)
	if authenticated(sibling) {
		t.Error("tokens outlive their service account")
	}
	if !authenticated(recreated) {
		t.Error("a recreated service account is refused")
	}
}

func TestReviewCallers(t *testing.T) {
	i := start(t)
	forStore, _ := i.Issue(web, "vault", time.Hour)
	forAPI, _ := i.Issue(web, "", time.Hour)
	spec := `{"spec":{"token":"` + forStore + `","audiences":["vault"]}}`
	for name, tc := range map[string]struct {
		bearer, body string
		code         int
		want         string
	}{
		"anonymous":          {"", spec, 401, `"reason":"Unauthorized"`},
		"token for a store":  {forStore, spec, 401, `"reason":"Unauthorized"`},
		"pod without rights": {forAPI, spec, 403, `User \"system:serviceaccount:shop:web\" cannot create`},
		"empty":              {i.ReviewerToken(), `{}`, 400, "token is required"},
		"not JSON":           {i.ReviewerToken(), `token`, 400, `"reason":"BadRequest"`},
		"too large":          {i.ReviewerToken(), strings.Repeat(" ", 4<<20), 413, "too large"},
		"reviewer":           {i.ReviewerToken(), spec, 201, `"authenticated":true`},
	} {
		t.Run(name, func(t *testing.T) {
			before := i.Reviews()
			code, answer := review(t, i, tc.bearer, tc.body)
			if code != tc.code || !strings.Contains(answer, tc.want) {
				t.Errorf("%d %s, want %d and %q", code, answer, tc.code, tc.want)
			}
			counted := i.Reviews() - before
			if want := map[bool]int64{true: 1}[code == 201]; counted != want {
				t.Errorf("counted %d reviews, want %d", counted, want)
			}
		})
	}
}
