package plugin

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// FuzzScrub: a known secret never remains, whatever the text around it and however it is quoted.
func FuzzScrub(f *testing.F) {
	f.Add("password", "failed with ", " at line 3")
	f.Add("p\"a<s>s\\w\nord", "{\"key\":\"", "\"}")
	f.Add("eyJhbGciOiJSUzI1NiJ9+/=rest", "", "")
	f.Add("aaaa", "a", "aaa")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		if len(value) < minSecret || strings.Contains(secret.Redacted, value) || strings.Contains(oneLine(before+after, maxWords), value) {
			t.Skip()
		}
		r := provider.Request{Secrets: map[string]secret.String{"k": secret.NewString(value)}}
		s := scrubber{&r}
		quoted := strconv.Quote(value)
		for _, shown := range []string{value, quoted, strconv.Quote(quoted), fmt.Sprintf("%q", strconv.Quote(quoted))} {
			text := s.text(before + " " + shown + " " + after)
			if strings.Contains(text, value) && !strings.Contains(s.text(before+" [redacted] "+after), value) {
				t.Errorf("%q came through in %q", value, text)
			}
		}
	})
}

func TestQuotedSecrets(t *testing.T) {
	const value = "p\"a<s>s\\w\nord-é"
	r := provider.Request{
		Secrets: map[string]secret.String{"k": secret.NewString(value)},
		Tokens:  identity.Tokens{"a": {JWT: secret.NewString(marker)}},
	}
	s := scrubber{&r}
	for _, shown := range quoted(value, maxQuotings) {
		if text := s.text("x " + shown + " y"); text != "x [redacted] y" {
			t.Errorf("%q is shown as %q", shown, text)
		}
	}
	for _, key := range []string{"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----\nMIIE and no end"} {
		if got := s.text("key: " + key); got != "key: [redacted]" {
			t.Errorf("a private key is shown as %q", got)
		}
	}
	if got := s.text("no secret here: p a s s"); got != "no secret here: p a s s" {
		t.Errorf("an ordinary text became %q", got)
	}
}
