package akeylessd_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var now = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

func start(t *testing.T, clock func() time.Time) (*akeylessd.Server, *issuer.Issuer) {
	t.Helper()
	iss := testkit.Value(issuer.Start(t.Context(), issuer.Options{Now: clock}))(t)
	s := testkit.Value(akeylessd.Start(t.Context(), akeylessd.Options{Now: clock, Issuer: iss}))(t)
	t.Cleanup(func() {
		for range 2 { // closing twice is fine
			testkit.Check(t, s.Close())
		}
		testkit.Check(t, iss.Close())
	})
	return s, iss
}

// post returns the status and the answer.
func post(t *testing.T, s *akeylessd.Server, path string, body map[string]any) (int, map[string]any) {
	t.Helper()
	text := testkit.Value(json.Marshal(body))(t)
	resp, err := http.Post(s.URL()+path, "application/json", bytes.NewReader(text)) //nolint:noctx // a test's own server
	testkit.Must(t, err)
	defer func() { _ = resp.Body.Close() }()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil && resp.StatusCode != http.StatusCreated {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

// TestTheDoubleJudges: the double refuses what Akeyless refuses. A double that accepts everything
// would prove nothing about the provider.
func TestTheDoubleJudges(t *testing.T) {
	s, iss := start(t, func() time.Time { return now })
	s.AuthMethod("p-jwt", akeylessd.Method{Type: "jwt", Audience: "akeyless"})
	s.AuthMethod("p-key", akeylessd.Method{Type: "access_key", Key: "k"})
	s.AuthMethod("p-k8s", akeylessd.Method{Type: "k8s", Audience: "akeyless", ConfigName: "c"})
	web := issuer.PodRef{Namespace: "shop", Pod: "web-0", ServiceAccount: "web"}
	good, _ := iss.Issue(web, "akeyless", time.Hour)
	foreign, _ := iss.Issue(web, "vault", time.Hour)
	expired, _ := iss.Issue(web, "akeyless", -time.Hour)
	jwt := func(token string) map[string]any {
		return map[string]any{"access-id": "p-jwt", "access-type": "jwt", "jwt": token}
	}
	for name, c := range map[string]struct {
		body map[string]any
		want int
	}{
		"good":             {jwt(good), 200},
		"foreign audience": {jwt(foreign), 401},
		"expired":          {jwt(expired), 401},
		"tampered":         {jwt(good[:len(good)-5] + "AAAAA"), 401},
		"none":             {jwt(""), 401},
		"access key":       {map[string]any{"access-id": "p-key", "access-type": "access_key", "access-key": "k"}, 200},
		"wrong access key": {map[string]any{"access-id": "p-key", "access-type": "access_key", "access-key": "x"}, 401},
		"another type":     {map[string]any{"access-id": "p-key", "access-type": "jwt", "jwt": good}, 401},
		"nobody":           {map[string]any{"access-id": "p-nobody", "access-type": "jwt", "jwt": good}, 401},
		"k8s, not base64":  {map[string]any{"access-id": "p-k8s", "access-type": "k8s", "k8s-auth-config-name": "c", "gateway-url": "x", "k8s-service-account-token": good}, 401},
	} {
		if got, answer := post(t, s, "/auth", c.body); got != c.want {
			t.Errorf("%s: status %d, want %d: %v", name, got, c.want, answer)
		}
	}
	iss.DeletePod(web)
	if got, _ := post(t, s, "/auth", jwt(good)); got != 200 {
		t.Errorf("jwt knows nothing of pods: %d", got)
	}
}

// TestKubernetesAuth asks two clusters about tokens of both.
func TestKubernetesAuth(t *testing.T) {
	s, own := start(t, func() time.Time { return now })
	other := testkit.Value(issuer.Start(t.Context(), issuer.Options{Now: func() time.Time { return now }}))(t)
	t.Cleanup(func() { _ = other.Close() })
	web := issuer.PodRef{Namespace: "shop", Pod: "web-0", ServiceAccount: "web"}
	for id, cluster := range map[string]*akeylessd.Cluster{
		"p-own":      nil,
		"p-other":    {Host: other.URL(), ReviewerToken: other.ReviewerToken()},
		"p-stranger": {Host: other.URL(), ReviewerToken: own.ReviewerToken()}, // may not ask
		"p-bad-ca":   {Host: other.URL(), ReviewerToken: other.ReviewerToken(), CA: []byte("x")},
	} {
		s.AuthMethod(id, akeylessd.Method{Type: "k8s", Audience: "akeyless", ConfigName: "c", Cluster: cluster})
	}
	for _, tc := range []struct {
		id       string
		from     *issuer.Issuer
		audience string
		want     int
	}{
		{"p-own", own, "akeyless", 200},
		{"p-own", own, "vault", 401},
		{"p-own", other, "akeyless", 401},
		{"p-other", other, "akeyless", 200},
		{"p-other", own, "akeyless", 401},
		{"p-stranger", other, "akeyless", 401},
		{"p-bad-ca", other, "akeyless", 401},
	} {
		token, _ := tc.from.Issue(web, tc.audience, time.Hour)
		got, answer := post(t, s, "/auth", map[string]any{
			"access-id": tc.id, "access-type": "k8s", "k8s-auth-config-name": "c", "gateway-url": "x",
			"k8s-service-account-token": base64.StdEncoding.EncodeToString([]byte(token)),
		})
		if got != tc.want {
			t.Errorf("%s, token of %s for %s: status %d, want %d: %v", tc.id, tc.from.URL(), tc.audience, got, tc.want, answer)
		}
	}
}

func TestAccessAndTime(t *testing.T) {
	clock := now
	s, _ := start(t, func() time.Time { return clock })
	s.AuthMethod("p-key", akeylessd.Method{Type: "access_key", Key: "k", Life: time.Minute})
	s.Allow(akeylessd.Rule{AccessID: "p-key", Prefix: "/app/"})
	s.PutStatic("/app/a", "value")
	s.PutStatic("/other/a", "value")
	s.PutDynamic("/app/db", time.Hour)
	_, login := post(t, s, "/auth", map[string]any{"access-id": "p-key", "access-type": "access_key", "access-key": "k"})
	ask := func(path string, body map[string]any) int {
		body["token"] = login["token"]
		status, _ := post(t, s, path, body)
		return status
	}
	for want, name := range map[int]string{200: "/app/a", 403: "/other/a", 404: "/app/none", 400: "/app/db"} {
		if got := ask("/get-secret-value", map[string]any{"names": []string{name}}); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	for _, name := range []string{"/other/a", "/app/none"} {
		if got := ask("/describe-item", map[string]any{"name": name}); got != 401 {
			t.Errorf("describing %s: %d", name, got)
		}
	}
	for range 3 {
		if got := ask("/get-dynamic-secret-value", map[string]any{"name": "/app/db"}); got != 200 {
			t.Errorf("dynamic: %d", got)
		}
	}
	if issued, alive := s.Credentials(); issued != 3 || alive != 3 {
		t.Errorf("%d made, %d alive", issued, alive)
	}
	if got := ask("/dynamic-secret-tmp-creds-delete", map[string]any{"name": "/app/db", "tmp-creds-id": "none"}); got != 404 {
		t.Errorf("deleting what is not there: %d", got)
	}
	clock = clock.Add(2 * time.Minute)
	if got := ask("/get-secret-value", map[string]any{"names": []string{"/app/a"}}); got != 401 {
		t.Errorf("with a token that is over: %d", got)
	}
	clock = clock.Add(time.Hour)
	if issued, alive := s.Credentials(); issued != 3 || alive != 0 {
		t.Errorf("an hour later %d made, %d alive", issued, alive)
	}
}

// TestAgainstPublishedDescription runs the nested module openapi: everything that the provider does
// through the wire, with all requests and answers checked against Akeyless' OpenAPI description. It
// is a module of its own, so the go command does not find it from here.
func TestAgainstPublishedDescription(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the validator of a module of its own")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "./...")
	cmd.Dir = "openapi"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}
