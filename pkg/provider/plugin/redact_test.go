package plugin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// A provider that repeats the whole request reveals nothing.
func TestEchoedSecrets(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request("answer", "echo")
	r.Tokens = tokensOf(t, "shop/web", "sts.amazonaws.com", "pods.eks.amazonaws.com")
	r.Tokens["opaque"] = identity.Token{JWT: secret.NewString("no-jwt-opaque-token")}
	r.Secrets = secretsOf("clientsecret", "p@ss<w>\"or\"d\\\n-tail", "clientid", "id-0123", "short", "ab")
	for _, code := range []string{"2", "3", "7", "12"} {
		r.Class.Parameters["code"] = code
		r.Class.Parameters["text"] = map[bool]string{true: "request"}[code == "3"]
		err := fmt.Sprintf("%v", w.anyFault(r))
		if !strings.Contains(err, "could not find") || !strings.Contains(err, secret.Redacted) {
			t.Errorf("the provider's own words are missing: %s", err)
		}
		for _, leak := range []string{
			jwt("shop/web", "sts.amazonaws.com"), jwt("shop/web", "pods.eks.amazonaws.com"),
			"eyJ", "c2lnbmF0dXJl", "no-jwt-opaque-token", "p@ss", "tail", "id-0123",
		} {
			if strings.Contains(err, leak) {
				t.Errorf("the error for code %s holds %q: %s", code, leak, err)
			}
		}
	}
}

func (w *world) anyFault(r provider.Request) error {
	w.t.Helper()
	_, err := w.fetch(r)
	if err == nil {
		w.t.Fatal("Fetch succeeded, want a fault")
	}
	return err
}

// Pieces of a token are as bad: a text that was cut, a part of it.
func TestEchoedPieces(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	token := jwt("shop/web", "sts.amazonaws.com")
	parts := strings.Split(token, ".")
	for _, text := range []string{
		"token: " + token[:len(token)-9], "Bearer " + parts[0], "claims " + parts[1], "signature " + parts[2],
		"another pod's eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", strings.Repeat("x", 2000) + " " + token,
	} {
		err := w.bad(w.request("answer", "plainError", "text", text), fault.BadAnswer).Error()
		for _, leak := range append(parts, "eyJ", "c2lnbmF0dXJl") {
			if strings.Contains(err, leak) {
				t.Errorf("from %q the error keeps %q: %s", text, leak, err)
			}
		}
	}
}

// Tokens in an error code, a path or a version are secrets too.
func TestEchoInAnswers(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	token := jwt("shop/web", "sts.amazonaws.com")
	for _, tc := range []struct {
		pairs  []string
		reason fault.Reason
	}{
		{[]string{"answer", "errorCode", "code", token}, fault.Rejected},
		{[]string{"answer", "path", "path", "/" + token}, fault.BadAnswer},
		{[]string{"objects", "- {objectName: db, path: " + token + ", mode: 4095}"}, fault.BadAnswer},
		{[]string{"objects", "- {objectName: " + token + "}"}, fault.NotFound},
	} {
		err := w.bad(w.request(tc.pairs...), tc.reason, secret.Redacted).Error()
		if strings.Contains(err, token) {
			t.Errorf("the error holds the token: %s", err)
		}
	}
	w.store.Set(token, "x")
	w.bad(w.request("objects", "- {objectName: "+token+", path: x}"), fault.BadAnswer, "object_version[0]", "holds a service account token")
}

// A version with an ordinary word that is also a secret is not refused.
func TestOrdinaryWordsInVersions(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	w.store.Set("prod/db", "x")
	r := w.request("objects", "- {objectName: prod/db}")
	r.Secrets = secretsOf("environment", "prod")
	w.good(r)
}
