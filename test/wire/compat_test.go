package wire

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/test/akeylessd"
	"github.com/mayfly-csi/mayfly/test/compat"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// compatRig is a node for the cases of package compat.
type compatRig struct {
	*rig
	answers  *answers
	akeyless *akeylessd.Server
	plugins  string
	plugin   *compatPlugin
}

// TestCompatibility runs the cases of package compat.
func TestCompatibility(t *testing.T) {
	cases := testkit.Value(compat.Load("../compat/cases"))(t)
	f := newCompatRig(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { f.runCase(t, c) })
	}
}

func newCompatRig(t *testing.T) *compatRig {
	f := &compatRig{answers: &answers{left: map[string][]compat.Answer{}}}
	f.rig = newRig(t, func(c *node.Config) {
		c.Akeyless.AllowLocalAddresses = true // the double listens there
		front := testkit.NewProxy(t, c.Vault.DefaultAddress)
		front.Intercept(f.answers.intercept)
		c.Vault.DefaultAddress, c.OpenBao.DefaultAddress = front.URL, front.URL
		f.plugins = filepath.Join(filepath.Dir(strings.TrimPrefix(c.Endpoint, "unix://")), "p")
		c.Plugins = []string{f.plugins}
	})
	f.akeyless = testkit.Value(akeylessd.Start(t.Context(), akeylessd.Options{Issuer: f.issuer}))(t)
	t.Cleanup(func() { _ = f.akeyless.Close() })
	f.akeyless.AuthMethod("p-field", akeylessd.Method{Type: "k8s", ConfigName: "field", Audience: "akeyless"})
	f.akeyless.Allow(akeylessd.Rule{AccessID: "p-field", Prefix: "/"})
	f.plugin = startCompatPlugin(t, f.plugins, "field")
	return f
}

// compatPlugin is a provider plugin. Its answer is that of the case with the pod's name.
type compatPlugin struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	mu    sync.Mutex
	cases map[string]compat.Plugin
	sent  map[string]map[string]string // attributes by the pod's name
}

func startCompatPlugin(t *testing.T, dir, name string) *compatPlugin {
	p := &compatPlugin{cases: map[string]compat.Plugin{}, sent: map[string]map[string]string{}}
	testkit.Must(t, os.MkdirAll(dir, 0o755))
	l := testkit.Value(net.Listen("unix", filepath.Join(dir, name+".sock")))(t)
	s := grpc.NewServer()
	v1alpha1.RegisterCSIDriverProviderServer(s, p)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return p
}

func (p *compatPlugin) set(name string, c compat.Plugin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cases[name] = c
}

func (p *compatPlugin) attributes(pod string) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[pod]
}

// Version implements v1alpha1.CSIDriverProviderServer.
func (p *compatPlugin) Version(context.Context, *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	return &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "field", RuntimeVersion: "1"}, nil
}

// Mount implements v1alpha1.CSIDriverProviderServer.
func (p *compatPlugin) Mount(_ context.Context, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	var attributes map[string]string
	if err := json.Unmarshal([]byte(m.GetAttributes()), &attributes); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the attributes are not a JSON map")
	}
	p.mu.Lock()
	c := p.cases[attributes["csi.storage.k8s.io/pod.name"]]
	p.sent[attributes["csi.storage.k8s.io/pod.name"]] = attributes
	p.mu.Unlock()
	for name := range attributes {
		if len(c.Strict) > 0 && !slices.Contains(c.Strict, name) {
			return nil, status.Errorf(codes.InvalidArgument, "unknown attribute %q", name)
		}
	}
	r := &v1alpha1.MountResponse{}
	for _, f := range c.Files {
		r.Files = append(r.Files, &v1alpha1.File{Path: f.Path, Mode: f.Mode, Contents: []byte(f.Contents)})
	}
	for _, v := range c.Versions {
		r.ObjectVersion = append(r.ObjectVersion, &v1alpha1.ObjectVersion{Id: v.ID, Version: v.Version})
	}
	return r, nil
}

// answers are in place of Vault's own, by path below /v1/.
type answers struct {
	mu   sync.Mutex
	left map[string][]compat.Answer
}

func (a *answers) set(answers map[string][]compat.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.Copy(a.left, answers)
}

func (a *answers) take(path string) (compat.Answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.left[path]
	if len(list) == 0 {
		return compat.Answer{}, false
	}
	if len(list) > 1 {
		a.left[path] = list[1:]
	}
	return list[0], true
}

func (a *answers) intercept(w http.ResponseWriter, r *http.Request, vault http.Handler) {
	answer, ok := a.take(strings.TrimPrefix(r.URL.Path, "/v1/"))
	if !ok {
		vault.ServeHTTP(w, r)
		return
	}
	testkit.Answer(w, cmp.Or(answer.Status, http.StatusOK), cmp.Or(answer.Type, "application/json"), answer.Body)
}

type run struct {
	*compatRig
	t    *testing.T
	c    compat.Case
	pod  kubelet.Pod
	seen map[string]string
	mark vaulttest.Mark
}

func (f *compatRig) runCase(t *testing.T, c compat.Case) {
	r := &run{compatRig: f, t: t, c: c}
	r.setUp(t.Context())
	r.writeManifest(c.Class)
	r.pod = f.podOf(c.Name)
	r.snapshot()
	err := f.Publish(t.Context(), r.pod)
	if len(c.Want.Error) > 0 {
		r.wantWords("the error", fmt.Sprint(err), c.Want.Error)
		if err == nil {
			t.Fatal("the publish succeeded")
		}
		return
	}
	testkit.Must(t, err)
	defer func() { testkit.Must(t, f.Unpublish(context.WithoutCancel(t.Context()), r.pod)) }()
	if why := r.differs(c.Want); why != "" {
		t.Error(why)
	}
	for i, s := range c.Steps {
		r.step(i, s)
	}
}

func (f *compatRig) podOf(name string) kubelet.Pod {
	p := f.rig.pod(name, "web", name)
	ref := issuer.PodRef{Namespace: "shop", Pod: name, PodUID: p.UID, ServiceAccount: "web"}
	p.Tokens = f.issuer.CSITokens(ref, "vault", "openbao", "akeyless")
	return p
}

func (r *run) setUp(ctx context.Context) {
	v, name := r.vault, r.c.Name
	if r.c.Vault.Policy != "" {
		testkit.Must(r.t, v.Policy(ctx, name, r.c.Vault.Policy))
	}
	role := map[string]any{"token_ttl": "10m"}
	maps.Copy(role, r.c.Vault.Role)
	testkit.Must(r.t, v.Bind(ctx, name, "web", "shop", name, role))
	for path, kind := range r.c.Vault.Mounts {
		testkit.Must(r.t, v.Write(ctx, "sys/mounts/"+path, map[string]any{"type": kind}))
	}
	for _, w := range r.c.Vault.Writes {
		testkit.Must(r.t, v.Write(ctx, w.Path, w.Data))
	}
	r.answers.set(r.c.Vault.Answers)
	for item, value := range r.c.Akeyless.Static {
		r.akeyless.PutStatic(item, value)
	}
	for item, value := range r.c.Akeyless.Rotated {
		r.akeyless.PutRotated(item, value, time.Time{})
	}
	for item, ttl := range r.c.Akeyless.Dynamic {
		r.akeyless.PutDynamic(item, ttl)
	}
	r.plugin.set(r.c.Name, r.c.Plugin)
}

func (r *run) writeManifest(text string) {
	r.t.Helper()
	r.replace(filepath.Join(r.classDir, r.c.Name+".yaml"), strings.ReplaceAll(text, "$AKEYLESS", r.akeyless.URL()))
}

// snapshot records the files and Vault's requests for the next comparison.
func (r *run) snapshot() {
	r.seen = r.files()
	mark := testkit.Value(r.vault.Mark())(r.t)
	r.mark = mark
}

func (r *run) step(i int, s compat.Step) {
	r.t.Helper()
	r.snapshot()
	if s.Write.Path != "" {
		testkit.Must(r.t, r.vault.Write(r.t.Context(), s.Write.Path, s.Write.Data))
	}
	if s.Class != "" {
		r.writeManifest(s.Class)
	}
	if s.Now {
		r.refresh <- os.Interrupt
	}
	if s.Refreshes > 0 {
		begin := r.refreshes()
		r.eventually(fmt.Sprintf("step %d: %d refreshes", i, s.Refreshes), func() bool { return r.refreshes() >= begin+s.Refreshes })
	}
	if s.Refreshes > 0 { // without waiting: the refreshes have ended
		if why := r.differs(s.Want); why != "" {
			r.t.Errorf("step %d: %s", i, why)
		}
		return
	}
	r.eventually(fmt.Sprintf("step %d holds (%s)", i, r.differs(s.Want)), func() bool { return r.differs(s.Want) == "" })
}

// refreshes counts the refreshes of the node, which has the case's volume only.
func (r *run) refreshes() int {
	_, text := r.get("/metrics")
	n := 0.0
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "rotation_reconcile_total") {
			f, _ := strconv.ParseFloat(value, 64)
			n += f
		}
	}
	return int(n)
}

func (r *run) files() map[string]string {
	files := map[string]string{}
	root := r.Target(r.pod)
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") {
			files[e.Name()] = r.file(r.pod, e.Name())
		}
	}
	return files
}

// differs describes how the volume differs from w; empty if it does not.
func (r *run) differs(w compat.Want) string {
	files := r.files()
	for name, want := range w.Files {
		if files[name] != want {
			return fmt.Sprintf("the file %q holds %q, want %q", name, files[name], want)
		}
	}
	if w.Files != nil && len(files) != len(w.Files) {
		return fmt.Sprintf("the files are %q, want %q", slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(w.Files)))
	}
	for name, want := range w.Begins {
		if !strings.HasPrefix(files[name], want) {
			return fmt.Sprintf("the file %q holds %.100q, want a beginning %q", name, files[name], want)
		}
	}
	for name, want := range w.Modes {
		info, err := os.Stat(filepath.Join(r.Target(r.pod), name))
		if err != nil || uint32(info.Mode().Perm()) != want {
			return fmt.Sprintf("the file %q has another mode than %o: %v, %v", name, want, info, err)
		}
	}
	for _, name := range w.Same {
		if files[name] != r.seen[name] {
			return fmt.Sprintf("the file %q has changed", name)
		}
	}
	for _, name := range w.Changed {
		if files[name] == r.seen[name] {
			return fmt.Sprintf("the file %q has not changed", name)
		}
	}
	if len(w.KeyPair) == 2 {
		if _, err := tls.X509KeyPair([]byte(files[w.KeyPair[0]]), []byte(files[w.KeyPair[1]])); err != nil {
			return fmt.Sprintf("the key is not the certificate's: %v", err)
		}
	}
	for _, words := range w.Warnings {
		if !strings.Contains(r.log.String(), words) {
			return fmt.Sprintf("no warning has the words %q", words)
		}
	}
	return r.requestsDiffer(w.Requests)
}

func (r *run) requestsDiffer(want map[string]string) string {
	if len(want) == 0 {
		return ""
	}
	counts := testkit.Value(r.vault.CountRequests(r.t.Context(), r.mark))(r.t)
	for path, rule := range want {
		n := counts[path]
		digits := strings.TrimLeft(rule, "<>=")
		limit := testkit.Value(strconv.Atoi(digits))(r.t)
		ok := n == limit
		switch strings.TrimSuffix(rule, digits) {
		case ">=":
			ok = n >= limit
		case "<=":
			ok = n <= limit
		}
		if !ok {
			return fmt.Sprintf("%d requests at %q, want %s", n, path, rule)
		}
	}
	return ""
}

func (r *run) wantWords(what, text string, words []string) {
	r.t.Helper()
	testkit.Has(r.t, text, words...)
}
