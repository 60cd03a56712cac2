package secret

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// FuzzRedact: a known secret never remains, whatever the text around it and however it is quoted or
// encoded.
func FuzzRedact(f *testing.F) {
	f.Add("password", "failed with ", " at line 3")
	f.Add("p\"a<s>s\\w\nord", "{\"key\":\"", "\"}")
	f.Add("eyJhbGciOiJSUzI1NiJ9+/=rest", "", "")
	f.Add("aaaa", "a", "aaa")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		if len(value) < minKnown || strings.Contains(Redacted, value) || strings.Contains(before+after, value) {
			t.Skip()
		}
		known := []String{NewString(value)}
		q := strconv.Quote(value)
		for _, shown := range []string{
			value, q, strconv.Quote(q), fmt.Sprintf("%q", strconv.Quote(q)),
			base64.StdEncoding.EncodeToString([]byte(value)), base64.URLEncoding.EncodeToString([]byte(value)),
		} {
			text := Redact(before+" "+shown+" "+after, known)
			if strings.Contains(text, value) && !strings.Contains(Redact(before+" [redacted] "+after, known), value) {
				t.Errorf("%q came through in %q", value, text)
			}
		}
	})
}

func TestRedact(t *testing.T) {
	const value = "p\"a<s>s\\w\nord-é"
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
	known := []String{NewString(value), NewString(jwt), {}, NewString("abc")}
	for _, shown := range append(quoted(value, maxQuotings), encoded(value)...) {
		testkit.Equal(t, shown, Redact("x "+shown+" y", known), "x [redacted] y")
	}
	for text, want := range map[string]string{
		"key: -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----": "key: [redacted]",
		"key: -----BEGIN RSA PRIVATE KEY-----\nMIIE and no end":             "key: [redacted]",
		"the token " + jwt + " is not valid":                                "the token [redacted] is not valid",
		"a part c2lnbmF0dXJl of it":                                         "a part [redacted] of it",
		"cut: eyJhbGciOiJSUzI1NiJ9.eyJpc3M":                                 "cut: [redacted]",
		"another's eyJ0eXAiOiJKV1Qifooooooooo token":                        "another's [redacted] token",
		"the store's own hvs.CAESIJ token":                                  "the store's own [redacted] token",
		"no secret here: p a s s, abc":                                      "no secret here: p a s s, abc",
		"":                                                                  "",
	} {
		testkit.Equal(t, text, Redact(text, known, regexp.MustCompile(`\bhvs\.\w+`)), want)
	}
}

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"two\nlines\tand\x00more": "two lines and more",
		"a\u2028b\xff":            "a b?",
		strings.Repeat("é", 11):   strings.Repeat("é", 10) + "...",
	} {
		testkit.Equal(t, text, OneLine(text, 21), want)
	}
}
