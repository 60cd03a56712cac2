package policy_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestCheckAkeyless compares with the roles of a double of Akeyless.
func TestCheckAkeyless(t *testing.T) {
	a := testkit.Value(akeylessd.Start(t.Context(), akeylessd.Options{}))(t)
	t.Cleanup(func() { _ = a.Close() })
	a.AuthMethod("p-person", akeylessd.Method{Type: "access_key", Key: "key"})
	t.Setenv("AKEYLESS_TOKEN", logInAsUser(t, a))
	text := `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: web, namespace: shop}
spec:
  provider: akeyless
  parameters:
    akeylessGatewayURL: ` + a.URL() + `
    akeylessAccessType: k8s
    akeylessAccessID: p-web
    akeylessK8sAuthConfigName: prod
    objects: |
      - {fileName: a, secretPath: /shop/web/a, secretType: static}
      - {fileName: b, secretPath: /shop/other/b, secretType: rotated}
`
	codes := func() []string {
		t.Helper()
		var out struct {
			Findings []struct{ Code, Level string }
		}
		testkit.Must(t, json.Unmarshal([]byte(run(t, text, "--check", "--serviceaccount", "web", "-o", "json")), &out))
		var list []string
		for _, f := range out.Findings {
			list = append(list, f.Code+" "+f.Level)
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	web := map[string]string{"namespace": "shop", "service_account_name": "web"}
	for _, step := range []struct {
		allow akeylessd.Rule
		want  string
	}{
		{akeylessd.Rule{AccessID: "p-web", Prefix: "/bank/", Claims: map[string]string{"namespace": "bank"}}, "MF310 error"},
		{akeylessd.Rule{AccessID: "p-web", Prefix: "/shop/web/", Claims: web, NoDescribe: true}, "MF312 error,MF313 warning"},
		{akeylessd.Rule{AccessID: "p-web", Prefix: "/shop/other/", Claims: web}, "MF313 info,MF313 warning"},
	} {
		a.Allow(step.allow)
		testkit.Equal(t, "codes", strings.Join(codes(), ","), step.want)
	}
	t.Setenv("AKEYLESS_TOKEN", "t-none")
	testkit.Equal(t, "codes with a bad token", codes(), []string{"MF090 warning"})
}

// logInAsUser returns a token of the user who runs the command.
func logInAsUser(t *testing.T, a *akeylessd.Server) string {
	t.Helper()
	resp := testkit.Value(http.Post(a.URL()+"/auth", "application/json", strings.NewReader(`{"access-type":"access_key","access-id":"p-person","access-key":"key"}`)))(t)
	defer resp.Body.Close()
	var body struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Token == "" {
		t.Fatal(err)
	}
	return body.Token
}
