package identity_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func jwt(payload string) string {
	return "eyJh." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

func TestParseTokens(t *testing.T) {
	bound := jwt(`{"jti":"id-1","kubernetes.io":{"pod":{"name":"web-0","uid":"pod-1"},"serviceaccount":{"name":"web","uid":"sa-1"}}}`)
	for _, tc := range []struct {
		name, in, fail string
		check          func(identity.Tokens) bool
	}{
		{"none", ``, "", func(got identity.Tokens) bool { return len(got) == 0 }},
		{"empty object", `{}`, "", func(got identity.Tokens) bool { return len(got) == 0 }},
		{"one", `{"vault":{"token":"` + bound + `","expirationTimestamp":"2036-01-02T03:04:05Z"}}`, "", func(got identity.Tokens) bool {
			v := got["vault"]
			return v.JWT.Reveal() == bound && v.Expires.Year() == 2036 && v.Claims == identity.Claims{ID: "id-1", ServiceAccountUID: "sa-1", PodUID: "pod-1"}
		}},
		{"empty audience", `{"":{"token":"opaque"}}`, "", func(got identity.Tokens) bool { return got[""].Expires.IsZero() && got[""].Claims == identity.Claims{} }},
		{"claims of another make", `{"a":{"token":"` + jwt(`{"kubernetes.io":7}`) + `"}}`, "", func(got identity.Tokens) bool { return got["a"].Claims == identity.Claims{} }},
		{"not JSON", `{"vault":"s3cr3t`, "not the JSON object", nil},
		{"a list", `["s3cr3t"]`, "not the JSON object", nil},
		{"no token", `{"vault":{"expirationTimestamp":"2036-01-02T03:04:05Z"}}`, `audience "vault" is empty`, nil},
		{"no time", `{"vault":{"token":"s3cr3t","expirationTimestamp":"tomorrow"}}`, "not RFC 3339", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := identity.ParseTokens(tc.in)
			if tc.fail == "" {
				if err != nil || !tc.check(got) {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.fail) || fault.Of(err) != fault.InvalidArgument || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("got %v, want an error that says %q and shows no token", err, tc.fail)
			}
		})
	}
}

func TestFor(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tokens, err := identity.ParseTokens(`{"vault":{"token":"a","expirationTimestamp":"2026-01-02T03:04:05Z"},"forever":{"token":"b"}}`)
	testkit.Must(t, err)
	if _, err := tokens.For("vault", now.Add(-time.Second)); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	testkit.Failure(tokens.For("vault", now))(t, fault.NoToken, "expired")
	if _, err := tokens.For("forever", now); err != nil {
		t.Errorf("a token without an end: %v", err)
	}
	_, err = tokens.For("sts.amazonaws.com", now)
	testkit.Says(t, err, `"sts.amazonaws.com"`, `["forever" "vault"]`, "tokenRequests of the CSIDriver object")
	testkit.Error(identity.Tokens(nil).For("vault", now))(t, "kubelet passed none") // no tokens
}

func TestEncodeIsParsedBack(t *testing.T) {
	in := testkit.Value(identity.ParseTokens(`{"vault":{"token":"a","expirationTimestamp":"2026-01-02T03:04:05Z"},"b":{"token":"c"}}`))(t)
	out, err := identity.ParseTokens(in.Encode().Reveal())
	if err != nil || !in.Equal(out) || !out.Equal(in) {
		t.Errorf("%v became %v, %v", in, out, err)
	}
	if in.Equal(nil) || !identity.Tokens(nil).Encode().Empty() {
		t.Error("no tokens are not some tokens")
	}
	for _, v := range []any{in, in.Reveal(), struct{ Plain identity.Plain }{in.Reveal()}} {
		if text := fmt.Sprintf("%v %+v %#v", v, v, v); strings.Contains(text, `"a"`) || strings.Contains(text, "{a") {
			t.Errorf("printing shows a token: %s", text)
		}
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "tokens", in.Reveal())
	testkit.Has(t, log.String(), `"tokens":"[redacted]"`)
}

// TestClaims: they come in one order, whatever the map's, and without a token.
func TestClaims(t *testing.T) {
	tokens := identity.Tokens{}
	for _, audience := range []string{"vault", "akeyless", "conjur"} {
		tokens[audience] = identity.Token{JWT: secret.NewString("jwt"), Claims: identity.Claims{ID: "id-" + audience}}
	}
	var got []string
	for _, c := range tokens.Claims() {
		got = append(got, c.Audience+" "+c.ID)
	}
	testkit.Equal(t, "the claims", got, []string{"akeyless id-akeyless", "conjur id-conjur", "vault id-vault"})
	testkit.Equal(t, "the claims without tokens", len(identity.Tokens(nil).Claims()), 0)
}

func FuzzParseTokens(f *testing.F) {
	f.Add(`{"vault":{"token":"eyJh.e30.c2ln","expirationTimestamp":"2026-01-02T03:04:05Z"}}`)
	f.Add(`{"":{"token":"."}}`)
	f.Add(`[`)
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := identity.ParseTokens(text)
		if err != nil {
			return
		}
		again, err := identity.ParseTokens(tokens.Encode().Reveal())
		if err != nil || len(again) != len(tokens) {
			t.Errorf("%q was parsed, and what it encodes to was not: %v", text, err)
		}
	})
}

func TestTheAPIServersOwnAudience(t *testing.T) {
	now := time.Now()
	own := identity.Tokens{"": {JWT: secret.NewString("own")}}
	testkit.Equal(t, "the token", testkit.Value(own.For(identity.APIServer, now))(t).JWT.Reveal(), "own")
	named := identity.Tokens{"": {JWT: secret.NewString("own")}, identity.APIServer: {JWT: secret.NewString("named")}}
	testkit.Equal(t, "the token of an audience of that name", testkit.Value(named.For(identity.APIServer, now))(t).JWT.Reveal(), "named")
	testkit.Failure((identity.Tokens{"vault": {}}).For(identity.APIServer, now))(t, fault.NoToken, `{audience: ""}`)
}
