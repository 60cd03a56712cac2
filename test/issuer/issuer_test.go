package issuer_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

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
	i, err := issuer.Start(t.Context(), issuer.Options{Now: func() time.Time { return now }})
	testkit.Must(t, err)
	t.Cleanup(func() {
		testkit.Check(t, i.Close())
	})
	return i
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	testkit.Must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s", url, resp.Status)
	}
	testkit.Must(t, json.NewDecoder(resp.Body).Decode(into))
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
	parsed, err := jwt.ParseSigned(token, discovery.Algorithms)
	testkit.Must(t, err)
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
	i, err := issuer.Start(t.Context(), issuer.Options{})
	testkit.Must(t, err)
	for range 2 {
		testkit.Must(t, i.Close())
	}
	if resp, err := http.Get(i.JWKSURL()); err == nil {
		resp.Body.Close()
		t.Error("serves after Close")
	}
}
