package akeyless

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

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
		if err := cloudRefusal(&endpoint.Endpoint{}, call{}, &endpoint.Reply{Status: 403, Body: []byte(body)}); fault.Of(err) != want {
			t.Errorf("%s: %s, want %s", body, fault.Of(err), want)
		}
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
