package pluginprovider_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// rig is the provider as a process of its own, which can be stopped and killed
// as a pod can.
type rig struct {
	t               *testing.T
	bin, dir, store string
	registry        *plugin.Registry
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := testkit.Value(os.MkdirTemp("", "mayfly"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, store: t.TempDir()}
	r.bin = testkit.Value(toolcache.Program(t.Context(), os.Stderr, dir, "./test/pluginprovider/cmd/pluginprovider"))(t)
	r.set("db", "one")
	r.registry = testkit.Value(plugin.New(plugin.Config{Audiences: map[string][]string{"aws": {"pluginprovider"}}, Dirs: []string{dir}, Timeout: 2 * time.Second}))(t)
	return r
}

func (r *rig) set(object, value string) {
	r.t.Helper()
	testkit.Must(r.t, os.WriteFile(filepath.Join(r.store, object), []byte(value), 0o600))
}

// start runs the provider and waits until it serves.
func (r *rig) start(args ...string) *testkit.Process {
	r.t.Helper()
	p := testkit.NewProcess(r.t, exec.Command(r.bin, append([]string{"--dir", r.dir, "--name", "aws", "--store", r.store, "--deny", "shop/stranger"}, args...)...))
	testkit.Eventually(r.t, "the provider serves", func() bool {
		all := r.registry.Health(r.t.Context(), r.registry.Names())
		return len(all) == 1 && all[0].Err == nil
	})
	return p
}

func (r *rig) fetch(account string, pairs ...string) (string, error) {
	r.t.Helper()
	p, err := r.registry.Get("aws")
	if err != nil {
		return "", err
	}
	parameters := map[string]string{"objects": "- {objectName: db}"}
	for i := 0; i < len(pairs); i += 2 {
		parameters[pairs[i]] = pairs[i+1]
	}
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:shop:` + account + `"}`))
	payload, err := p.Fetch(r.t.Context(), provider.Request{
		Volume: "csi-1", Pod: identity.Pod{Namespace: "shop", Name: "web-1", UID: "u", ServiceAccount: account},
		Tokens:     identity.Tokens{"pluginprovider": {JWT: secret.NewString("eyJhbGciOiJub25lIn0." + claims + ".c2ln")}},
		Class:      &class.Class{Ref: class.Ref{Namespace: "shop", Name: "web"}, Parameters: parameters},
		TargetPath: "/nowhere/mount",
	})
	if err != nil {
		return "", err
	}
	return string(payload.Files[0].Contents.Reveal()), nil
}

func (r *rig) want(value string) {
	r.t.Helper()
	if got, err := r.fetch("web"); err != nil || got != value {
		r.t.Errorf("Fetch = %q, %v, want %q", got, err, value)
	}
}

func (r *rig) wantFault(reason fault.Reason, account string, pairs ...string) {
	r.t.Helper()
	if _, err := r.fetch(account, pairs...); err == nil || fault.Of(err) != reason || !strings.Contains(err.Error(), `"aws"`) {
		r.t.Errorf("Fetch: %s: %v, want %s", fault.Of(err), err, reason)
	}
}

func TestProcess(t *testing.T) {
	r := newRig(t)
	r.wantFault(fault.UnknownProvider, "web")

	first := r.start()
	r.want("one")
	r.set("db", "two")
	r.want("two")
	r.wantFault(fault.Unverified, "stranger")
	r.wantFault(fault.NotFound, "web", "objects", "- {objectName: ../../etc/passwd}")

	testkit.Must(t, first.Kill())
	r.wantFault(fault.Unavailable, "web")
	r.start()
	r.want("two")
}

func TestOrderlyStopTakesTheSocketAway(t *testing.T) {
	r := newRig(t)
	p := r.start()
	testkit.Must(t, p.Stop(testkit.Patience))
	if err := p.Err(); err != nil {
		t.Errorf("the provider ended with %v", err)
	}
	r.wantFault(fault.UnknownProvider, "web")
}
