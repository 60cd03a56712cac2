package plugin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Every wrong answer fails its own volume with an error that says what is wrong, and the next
// volume is served.
func TestWrongAnswers(t *testing.T) {
	w := newWorld(t, plugin.Config{Timeout: 10 * time.Second})
	for _, tc := range []struct {
		name   string
		pairs  []string
		reason fault.Reason
		words  []string
	}{
		{"no files", []string{"answer", "noFiles"}, fault.Rejected, []string{"2 objects, and neither returns files nor wrote any", "set it to return them"}},
		{"no versions", []string{"answer", "noVersions"}, fault.BadAnswer, []string{"no object versions"}},
		{"nothing at all", []string{"answer", "nothing"}, fault.BadAnswer, []string{"no object versions"}},
		{"no objects", []string{"objects", "[]"}, fault.BadAnswer, []string{"no object versions"}},
		{"error code", []string{"answer", "errorCode", "code", "FailedToSync"}, fault.Rejected, []string{"FailedToSync"}},
		{"error code of gRPC", []string{"answer", "errorCode", "code", "PERMISSION_DENIED"}, fault.Unverified, []string{"PERMISSION_DENIED", "sts.amazonaws.com"}},
		{"error code with a line break", []string{"answer", "errorCode", "code", "a\nb"}, fault.Rejected, []string{"a b"}},
		{"absolute path", []string{"answer", "path", "path", "/etc/passwd"}, fault.BadAnswer, []string{`"/etc/passwd"`, "is absolute"}},
		{"traversal", []string{"answer", "path", "path", "a/../../b"}, fault.BadAnswer, []string{`".." element`}},
		{"reserved name", []string{"answer", "path", "path", "..data/x"}, fault.BadAnswer, []string{"reserved"}},
		{"empty path", []string{"answer", "path"}, fault.BadAnswer, []string{"is empty"}},
		{"unclean path", []string{"answer", "path", "path", "a//b"}, fault.BadAnswer, []string{"not clean"}},
		{"long element", []string{"answer", "path", "path", strings.Repeat("e", 256)}, fault.BadAnswer, []string{"256 bytes"}},
		{"NUL", []string{"answer", "path", "path", "a\x00b"}, fault.BadAnswer, []string{"control character"}},
		{"file and directory", []string{"answer", "path", "path", "db-password/x"}, fault.BadAnswer, []string{"also a directory"}},
		{"setuid", []string{"answer", "mode", "mode", fmt.Sprint(0o4755)}, fault.BadAnswer, []string{"files[0]", "04755", "0777"}},
		{"regular file bit", []string{"answer", "mode", "mode", fmt.Sprint(0o100644)}, fault.BadAnswer, []string{"0100644"}},
		{"negative mode", []string{"answer", "mode", "mode", "-420"}, fault.BadAnswer, []string{"-0644"}},
		{"too large", []string{"answer", "huge"}, fault.TooLarge, []string{"4194304", "--max-call-recv-msg-size"}},
		{"dies half-way", []string{"answer", "die"}, fault.Unavailable, []string{"Unavailable"}},
		{"unknown answer", []string{"answer", "?"}, fault.Rejected, []string{"InvalidArgument"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := *w
			w.t = t
			w.bad(w.request(tc.pairs...), tc.reason, append(tc.words, "aws.sock")...)
			// A provider that cut its connections may meet one more call on them.
			testkit.Eventually(t, "the provider to serve again", func() bool { _, err := w.fetch(w.request()); return err == nil })
		})
	}
}

func TestModeZeroIsTheDefault(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	for _, f := range w.good(w.request("answer", "mode", "mode", "0")).Files {
		if f.Mode != 0 { // which the writer takes for 0644
			t.Errorf("%s has the mode %o", f.Path, f.Mode)
		}
	}
}

func TestMessageLimit(t *testing.T) {
	w := newWorld(t, plugin.Config{MaxMessageBytes: 8 << 20})
	p := w.good(w.request("answer", "huge"))
	testkit.Equal(t, "bytes that came through", p.Files[0].Contents.Len(), 5<<20)
	w.bad(w.request("answer", "huge", "size", fmt.Sprint(8<<20)), fault.TooLarge, "8388608")
}

func TestCodes(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	for code, want := range map[int]struct {
		reason fault.Reason
		name   string
	}{
		1:  {fault.Unavailable, "Canceled"},
		2:  {fault.BadAnswer, "Unknown"},
		3:  {fault.Rejected, "InvalidArgument"},
		4:  {fault.Timeout, "DeadlineExceeded"},
		5:  {fault.NotFound, "NotFound"},
		6:  {fault.Rejected, "AlreadyExists"},
		7:  {fault.Unverified, "PermissionDenied"},
		8:  {fault.RateLimited, "ResourceExhausted"},
		9:  {fault.Rejected, "FailedPrecondition"},
		10: {fault.Unavailable, "Aborted"},
		11: {fault.Rejected, "OutOfRange"},
		12: {fault.BadAnswer, "does a Secrets Store provider serve this socket?"},
		13: {fault.BadAnswer, "Internal"},
		14: {fault.Unavailable, "Unavailable"},
		15: {fault.BadAnswer, "DataLoss"},
		16: {fault.Unverified, "Unauthenticated"},
		99: {fault.BadAnswer, "Code(99)"},
	} {
		w.bad(w.request("answer", "status", "code", fmt.Sprint(code), "text", "AccessDeniedException: no"),
			want.reason, want.name, "AccessDeniedException: no")
	}
	w.bad(w.request("answer", "status", "code", "2"), fault.BadAnswer, "it gave no reason")
	w.bad(w.request("answer", "plainError", "text", "line one\nline two\x1b[2J"), fault.BadAnswer, "line one line two [2J")
	err := w.bad(w.request("answer", "plainError", "text", strings.Repeat("long ", 10_000)), fault.BadAnswer, "long long")
	if n := len(err.Error()); n > 3000 {
		t.Errorf("the error is %d bytes long", n)
	}
}

// The gRPC status of a provider must not reach kubelet as if it were the driver's.
func TestStatusIsNotPassedOn(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	err := w.bad(w.request("answer", "status", "code", "5", "text", "gone"), fault.NotFound)
	for ; err != nil; err = unwrap(err) {
		if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok || strings.HasPrefix(err.Error(), "rpc error") {
			t.Errorf("the chain holds the gRPC error %v", err)
		}
	}
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return nil
}

// A provider that reads unchanged objects from the volume and cannot see it is
// asked for all of them, once.
func TestProviderThatReadsBack(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request("answer", "readsBack")
	r.Current = w.good(r).Versions
	testkit.Equal(t, "the payload, and what the store has", string(w.good(r).Files[0].Contents.Reveal()), "s3cr3t-db")
	requests := w.server.Requests()
	if n := len(requests); n != 3 || len(requests[1].GetCurrentObjectVersion()) != 2 || len(requests[2].GetCurrentObjectVersion()) != 0 {
		t.Fatalf("%d requests, want the second to name the versions and the third none", n)
	}
	testkit.Must(t, os.MkdirAll(filepath.Join(r.TargetPath, "nested"), 0o755))
	for _, name := range []string{"db-password", "nested/api-key"} {
		testkit.Must(t, os.WriteFile(filepath.Join(r.TargetPath, name), []byte("as it was"), 0o600))
	}
	if got := string(w.good(r).Files[0].Contents.Reveal()); got != "as it was" || len(w.server.Requests()) != 4 {
		t.Errorf("the payload has %q after %d requests", got, len(w.server.Requests()))
	}
}

// The driver makes a second call only for an error without a code, and only if it sent versions.
func TestSecondCallIsRare(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	for _, tc := range []struct {
		name, code string
		versions   bool
		calls      int
	}{
		{"unknown with versions", "2", true, 2},
		{"unknown without", "2", false, 1},
		{"denied with versions", "7", true, 1},
		{"internal with versions", "13", true, 1},
	} {
		before := len(w.server.Requests())
		r := w.request("answer", "status", "code", tc.code, "text", "no")
		if tc.versions {
			r.Current = []provider.Version{{ID: "db", Version: "1"}}
		}
		_ = w.anyFault(r)
		testkit.Equal(t, tc.name+": calls", len(w.server.Requests())-before, tc.calls)
	}
}

// A class with onDenied: empty gets a warning that this has no effect.
func TestOnDeniedIsWarnedOf(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	r := w.request()
	testkit.Equal(t, "warnings without a cause", len(w.good(r).Warnings), 0)
	r.Class.OnDenied = class.DeniedEmpty
	if p := w.good(r); len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "onDenied") {
		t.Errorf("warnings %q", p.Warnings)
	}
}

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
		testkit.Lacks(t, err, token)
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
