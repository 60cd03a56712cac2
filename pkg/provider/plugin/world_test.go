package plugin_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/pluginprovider"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// world is a node's directory of sockets, a provider called aws that serves
// one of them, and the registry that finds it.
type world struct {
	t      testing.TB
	dir    string
	store  *pluginprovider.Memory
	server *pluginprovider.Server
	*plugin.Registry
}

// socketDir is short: the kernel limits the paths of sockets.
func socketDir(t testing.TB) string {
	t.Helper()
	dir := testkit.Value(os.MkdirTemp("", "mayfly"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newWorld(t testing.TB, c plugin.Config) *world {
	t.Helper()
	w := &world{t: t, dir: socketDir(t), store: &pluginprovider.Memory{}}
	w.store.Set("db", "s3cr3t-db")
	w.store.Set("api", "s3cr3t-api")
	w.server = w.serve("aws")
	if len(c.Dirs) == 0 {
		c.Dirs = []string{w.dir}
	}
	var err error
	if w.Registry, err = plugin.New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) serve(name string) *pluginprovider.Server {
	w.t.Helper()
	s := testkit.Value(pluginprovider.Start(w.dir, name, pluginprovider.Options{Store: w.store, Deny: []string{"shop/stranger"}}))(w.t)
	w.t.Cleanup(s.Stop)
	return s
}

func (w *world) get(name string) provider.Provider {
	w.t.Helper()
	return testkit.Value(w.Get(name))(w.t)
}

// fetch asks the provider aws.
func (w *world) fetch(r provider.Request) (*provider.Payload, error) {
	w.t.Helper()
	return w.get("aws").Fetch(w.t.Context(), r)
}

// good fetches and fails the test where that fails.
func (w *world) good(r provider.Request) *provider.Payload {
	w.t.Helper()
	p, err := w.fetch(r)
	if err != nil {
		w.t.Fatalf("Fetch: %v", err)
	}
	return p
}

// bad requires a fault of that reason, with all of the words in its text, and a provider that can
// still serve the next volume.
func (w *world) bad(r provider.Request, reason fault.Reason, words ...string) error {
	w.t.Helper()
	p, err := w.fetch(r)
	if err == nil {
		w.t.Fatalf("Fetch gave %d files, want a fault", len(p.Files))
	}
	if p != nil {
		w.t.Error("Fetch gave a payload beside the error")
	}
	testkit.Fails(w.t, err, reason, append(words, `"aws"`)...)
	return err
}

// jwt makes a service account token with a signature that is not checked.
func jwt(account, audience string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	return part(map[string]string{"alg": "RS256", "kid": "k1"}) + "." +
		part(map[string]any{"sub": "system:serviceaccount:" + strings.Replace(account, "/", ":", 1), "aud": []string{audience}, "jti": "4f2a"}) +
		".c2lnbmF0dXJlLW1hcmtlci0wMTIzNDU2Nzg5"
}

func tokensOf(t testing.TB, account string, audiences ...string) identity.Tokens {
	t.Helper()
	all := map[string]map[string]string{}
	for _, a := range audiences {
		all[a] = map[string]string{"token": jwt(account, a), "expirationTimestamp": "2099-01-01T00:00:00Z"}
	}
	text := testkit.Value(json.Marshal(all))(t)
	return testkit.Value(identity.ParseTokens(string(text)))(t)
}

const twoObjects = "- {objectName: db, path: db-password}\n- {objectName: api, path: nested/api-key, mode: 256}\n"

// request is that of pod shop/web-1 for two objects; pairs are parameters of
// the class in addition.
func (w *world) request(pairs ...string) provider.Request {
	w.t.Helper()
	parameters := map[string]string{"objects": twoObjects, "audience": "sts.amazonaws.com"}
	for i := 0; i < len(pairs); i += 2 {
		parameters[pairs[i]] = pairs[i+1]
	}
	return provider.Request{
		Volume: "csi-1",
		Pod:    identity.Pod{Namespace: "shop", Name: "web-1", UID: "8d7c0a52-6d2e-4a6f-9a37-000000000001", ServiceAccount: "web"},
		Tokens: tokensOf(w.t, "shop/web", "sts.amazonaws.com"),
		Class: &class.Class{
			Ref: class.Ref{Namespace: "shop", Name: "web-secrets"}, Provider: "aws", Parameters: parameters,
		},
		TargetPath: w.dir + "/target/mount",
	}
}

// secretsOf is a nodePublishSecretRef.
func secretsOf(pairs ...string) map[string]secret.String {
	all := map[string]secret.String{}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = secret.NewString(pairs[i+1])
	}
	return all
}
