package transit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// says is a Vault with one fixed answer.
type says struct {
	body string
	err  error
	path string
}

func (s *says) Do(_ context.Context, r store.Request) (store.Answer, error) {
	s.path = r.Path
	return store.Answer{Body: []byte(s.body)}, s.err
}

func client(s *says) *transit.Client {
	return transit.New(config.Transit{Mount: "a b/transit", Key: "k"}, s)
}

// TestHostileAnswers: an answer of another version, or not of Transit, encrypts nothing.
func TestHostileAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"another version":     `{"data":{"ciphertext":"vault:v1:AAAA","key_version":1}}`,
		"another in the text": `{"data":{"ciphertext":"vault:v1:AAAA","key_version":2}}`,
		"another in the data": `{"data":{"ciphertext":"vault:v2:AAAA","key_version":1}}`,
		"none":                `{"data":{}}`,
		"plaintext":           `{"data":{"ciphertext":"c2VlZA==","key_version":2}}`,
		"not JSON":            `<html>`,
		"a list":              `[]`,
		"wrong types":         `{"data":{"ciphertext":7,"key_version":"2"}}`,
		"not base64":          `{"data":{"ciphertext":"vault:v2:!!!!","key_version":2}}`,
		"too long":            `{"data":{"ciphertext":"vault:v2:` + strings.Repeat("A", 1024) + `","key_version":2}}`,
	} {
		out, err := client(&says{body: body}).Encrypt(t.Context(), 2, []byte("seed"), nil, "")
		if out != "" || fault.Of(err) != fault.BadAnswer || strings.Contains(err.Error(), "c2VlZA") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	s := &says{body: `{"data":{"ciphertext":"vault:v2:AAAA"}}`} // as old servers say it
	if out, err := client(s).Encrypt(t.Context(), 2, []byte("seed"), nil, ""); out == "" || err != nil || s.path != "a%20b/transit/encrypt/k" {
		t.Errorf("%q, %v, %s", out, err, s.path)
	}
	for name, body := range map[string]string{"none": `{"data":{}}`, "empty": `{"data":{"plaintext":""}}`, "not base64": `{"data":{"plaintext":"!"}}`, "a number": `{"data":{"plaintext":1}}`} {
		if out, err := client(&says{body: body}).Decrypt(t.Context(), "vault:v2:AAAA", nil, ""); out != nil || fault.Of(err) != fault.BadAnswer {
			t.Errorf("decrypt, %s: %q, %v", name, out, err)
		}
	}
	for name, body := range map[string]string{
		"none": `{"data":{}}`, "null": `null`, "no version": `{"data":{"type":"aes256-gcm96"}}`, "negative": `{"data":{"type":"aes256-gcm96","latest_version":-1}}`,
		"wrong types": `{"data":{"type":"aes256-gcm96","latest_version":"1"}}`, "a list of keys": `{"data":{"type":"aes256-gcm96","latest_version":1,"keys":[1]}}`,
	} {
		if k, err := client(&says{body: body}).Key(t.Context()); fault.Of(err) != fault.BadAnswer {
			t.Errorf("key, %s: %+v, %v", name, k, err)
		}
	}
}

func TestUsable(t *testing.T) {
	for body, words := range map[string]string{
		`"type":"aes256-gcm96","latest_version":2,"keys":{"1":5,"2":6}`:                            "",
		`"type":"xchacha20-poly1305","latest_version":1,"keys":{"1":5}`:                            "",
		`"type":"rsa-2048","latest_version":1,"keys":{"1":{"creation_time":"x"}}`:                  "aes256-gcm96",
		`"type":"managed_key","latest_version":1`:                                                  "managed_key",
		`"type":"aes256-gcm96","latest_version":1,"keys":{"1":5},"derived":true`:                   "derived=false",
		`"type":"aes256-gcm96","latest_version":1,"keys":{"1":5},"soft_deleted":true`:              "deleted softly",
		`"type":"aes256-gcm96","latest_version":2,"keys":{"1":5}`:                                  "does not say when",
		`"type":"aes256-gcm96","latest_version":1,"keys":{"1":5},"min_encryption_version":4000000`: "min_encryption_version",
	} {
		k := testkit.Value(client(&says{body: `{"data":{` + body + `}}`}).Key(t.Context()))(t)
		if err := k.Usable(); (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// An error for a refusal of Vault says what to do.
func TestExplanations(t *testing.T) {
	refusal := func(status int, words string) error {
		return fault.New(fault.Rejected, "%w", &store.Refusal{Status: status, Words: words})
	}
	for _, tc := range []struct {
		err   error
		words string
	}{
		{refusal(400, "cipher: message authentication failed"), "another key of this name"},
		{refusal(400, "ciphertext or signature version is disallowed by policy (too old)"), "min_decryption_version"},
		{refusal(400, "encryption key not found"), "restore the key from a backup"},
		{refusal(400, "refusing to use soft-deleted key"), "restore the key from a backup"},
		{refusal(403, "permission denied"), `must grant "update" on a b/transit/decrypt/k`},
		{refusal(404, "no handler for route"), "--transit-mount"},
		{errors.New("other"), "other"},
	} {
		_, err := client(&says{err: tc.err}).Decrypt(t.Context(), "vault:v2:AAAA", nil, "")
		testkit.Says(t, err, tc.words)
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]int{
		"vault:v1:AAAA": 1, "vault:v12:AAA=": 12, "": 0, "vault:v1:": 0, "vault:v0:AAAA": 0, "vault:v01:AAAA": 0, "vault:v-1:AAAA": 0, "vault:v+1:AAAA": 0,
		"vault:v1:AA\nAA": 0, "vault:v1:AAAA\"": 0, "vault:v9999999999:AAAA": 0, "bao:v1:AAAA": 0, "vault:v1:AAAA:BBBB": 0, "vault:v1": 0,
	} {
		if got, ok := transit.Version(text); got != want || ok != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, ok)
		}
	}
}

// FuzzVersion: an accepted text is safe in a JSON text and names a version.
func FuzzVersion(f *testing.F) {
	f.Add("vault:v1:AAAA")
	f.Add("vault:v1:AA==\"}")
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := transit.Version(text)
		if ok != (v > 0) || ok && (strings.ContainsAny(text, "\"\\\n\r <>") || !strings.HasPrefix(text, fmt.Sprintf("vault:v%d:", v)) || len(text) > 1024) {
			t.Errorf("%q: %d, %v", text, v, ok)
		}
	})
}
