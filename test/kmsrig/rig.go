// Package kmsrig runs mayfly-kms's plugin in the test's own process, on a real
// Vault with a Transit key, an ACL policy and an AppRole.
package kmsrig

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/pkg/kms"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// The names of the rig's objects.
const (
	Mount     = "transit"
	ClusterID = "cluster-a"
	Role      = "kms"
)

// Rig is a Vault with a key. Each rig has a key, a policy, and a role of its own, so that rigs can
// share a Vault.
type Rig struct {
	Vault *vaulttest.Server
	Gate  *Gate
	// Key is the name of the Transit key, RoleID that of the AppRole, and SecretIDFile the file
	// with a secret id.
	Key, RoleID, SecretIDFile string
	Dir                       string
	t                         testing.TB
}

// Prepare mounts the engines once for all rigs of a Vault.
func Prepare(ctx context.Context, v *vaulttest.Server) error {
	if err := v.Client().Sys().MountWithContext(ctx, Mount, &api.MountInput{Type: "transit"}); err != nil {
		return err
	}
	if err := v.Client().Sys().EnableAuthWithOptionsWithContext(ctx, "approle", &api.EnableAuthOptions{Type: "approle"}); err != nil {
		return err
	}
	return v.Client().Sys().PutPolicyWithContext(ctx, "nothing", `path "sys/nothing" { capabilities = ["read"] }`)
}

// New makes a key and the role that may use it. The Vault must be prepared.
func New(t testing.TB, v *vaulttest.Server) *Rig {
	t.Helper()
	dir := t.TempDir()
	r := &Rig{Vault: v, Gate: NewGate(t, v.Address), Key: "k" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "=", "-").Replace(t.Name())), Dir: dir, t: t}
	if len(r.Key) > 60 {
		r.Key = r.Key[:60]
	}
	r.SecretIDFile = filepath.Join(dir, "secret-id")
	r.Write("transit/keys/"+r.Key, nil)
	r.SetPolicy(LeastPolicy(r.Key))
	r.Write("auth/approle/role/"+r.role(), map[string]any{"token_policies": r.policy(), "token_period": "20m", "secret_id_ttl": "0"})
	r.RoleID, _ = r.Read("auth/approle/role/" + r.role() + "/role-id")["role_id"].(string)
	r.NewSecretID()
	return r
}

// LeastPolicy is what the plugin needs.
func LeastPolicy(key string) string {
	return fmt.Sprintf(`
path "transit/keys/%[1]s" { capabilities = ["read"] }
path "transit/encrypt/%[1]s" { capabilities = ["update"] }
path "transit/decrypt/%[1]s" { capabilities = ["update"] }
`, key)
}

func (r *Rig) role() string   { return Role + "-" + r.Key }
func (r *Rig) policy() string { return "p-" + r.Key }

// Role is the name of the AppRole.
func (r *Rig) Role() string { return r.role() }

// SetPolicy replaces the policy of the role.
func (r *Rig) SetPolicy(rules string) {
	r.t.Helper()
	testkit.Must(r.t, r.Vault.Client().Sys().PutPolicyWithContext(r.t.Context(), r.policy(), rules))
}

// NewSecretID writes a new secret id to the file.
func (r *Rig) NewSecretID() (accessor string) {
	r.t.Helper()
	data := r.Write("auth/approle/role/"+r.role()+"/secret-id", nil)
	id, _ := data["secret_id"].(string)
	r.WriteFile("secret-id", id+"\n")
	accessor, _ = data["secret_id_accessor"].(string)
	return accessor
}

// WriteFile writes a file of the rig's directory.
func (r *Rig) WriteFile(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.Dir, name)
	testkit.Must(r.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Write writes to Vault as root.
func (r *Rig) Write(path string, data map[string]any) map[string]any {
	r.t.Helper()
	s := testkit.Value(r.Vault.Client().Logical().WriteWithContext(context.Background(), path, data))(r.t)
	if s == nil {
		return nil
	}
	return s.Data
}

// Read reads from Vault as root.
func (r *Rig) Read(path string) map[string]any {
	r.t.Helper()
	s, err := r.Vault.Client().Logical().ReadWithContext(context.Background(), path)
	if err != nil || s == nil {
		r.t.Fatalf("reading %s: %v", path, err)
	}
	return s.Data
}

// Delete deletes in Vault as root.
func (r *Rig) Delete(path string) {
	r.t.Helper()
	testkit.Value(r.Vault.Client().Logical().DeleteWithContext(context.Background(), path))(r.t)
}

// Rotate makes a new version of the key.
func (r *Rig) Rotate() { r.t.Helper(); r.Write("transit/keys/"+r.Key+"/rotate", nil) }

// DeleteKey deletes the key.
func (r *Rig) DeleteKey() {
	r.t.Helper()
	r.Write("transit/keys/"+r.Key+"/config", map[string]any{"deletion_allowed": true})
	r.Delete("transit/keys/" + r.Key)
}

// Requests counts the requests that Vault was asked for, by path, since a mark.
func (r *Rig) Requests(since vaulttest.Mark) map[string]int {
	r.t.Helper()
	entries := testkit.Value(r.Vault.AuditEntriesSince(context.Background(), since))(r.t)
	counts := map[string]int{}
	for _, e := range entries {
		if e.Type == "request" && (strings.HasSuffix(e.Path, "/"+r.Key) || strings.HasPrefix(e.Path, "auth/")) && !strings.Contains(e.Path, "role") {
			counts[strings.TrimSuffix(strings.TrimPrefix(e.Path, "transit/"), "/"+r.Key)]++
		}
	}
	return counts
}

// Mark is the present end of Vault's audit log.
func (r *Rig) Mark() vaulttest.Mark {
	r.t.Helper()
	return testkit.Value(r.Vault.Mark())(r.t)
}

// Args are the settings of a plugin on this rig: AppRole, through the gate, on a socket of its own,
// with short intervals. Later ones of the same name win.
func (r *Rig) Args(more ...string) []string {
	dir, err := os.MkdirTemp("", "kms") // short: the kernel limits a socket's path
	testkit.Must(r.t, err)
	r.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	scheme, _, _ := strings.Cut(r.Vault.Address, "://")
	args := []string{
		"--listen=unix://" + filepath.Join(dir, "s", "kms.sock"), "--vault-addr=" + r.Gate.URL(scheme), "--auth-method=approle",
		"--role-id=" + r.RoleID, "--secret-id-file=" + r.SecretIDFile, "--transit-key=" + r.Key, "--cluster-id=" + ClusterID,
		"--poll-interval=1s", "--proof-interval=1h", "--health-addr=", "--metrics-addr=", "--audit-log=" + filepath.Join(dir, "audit.log"),
	}
	for _, arg := range more {
		name, _, _ := strings.Cut(arg, "=")
		args = slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, name+"=") })
	}
	return append(args, more...)
}

// Config loads settings as the command does.
func Config(t testing.TB, args ...string) config.Config {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	options := config.Register(flags)
	testkit.Must(t, flags.Parse(args))
	return testkit.Value(options.Load(func(string) string { return "" }))(t)
}

// Plugin is one that runs in this process.
type Plugin struct {
	*kms.Server
	Config config.Config
	Client kmsv2.KeyManagementServiceClient
	Log    *testkit.Log

	t    testing.TB
	conn *grpc.ClientConn
	stop context.CancelFunc
	done chan error
}

// Start runs a plugin until Stop, or the end of the test.
func (r *Rig) Start(more ...string) *Plugin {
	r.t.Helper()
	c := Config(r.t, r.Args(more...)...)
	if c.Timing.Poll == time.Second { // the least that can be set
		c.Timing.Poll = 200 * time.Millisecond
	}
	return Start(r.t, c)
}

// Start runs a plugin with these settings, and waits until it serves.
func Start(t testing.TB, c config.Config) *Plugin {
	t.Helper()
	p := &Plugin{Config: c, Log: &testkit.Log{}, t: t, done: make(chan error, 1)}
	p.Server = testkit.Value(kms.New(c, "test", p.Log, slog.New(slog.NewJSONHandler(p.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))))(t)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.done <- p.Run(ctx) }()
	p.conn = testkit.Value(grpc.NewClient("unix:"+c.Serve.Socket, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	p.Client = kmsv2.NewKeyManagementServiceClient(p.conn)
	t.Cleanup(p.Stop)
	p.Eventually("it serves", func() bool { // the socket is there before it listens
		p.conn.Connect()
		return p.conn.GetState() == connectivity.Ready
	})
	return p
}

// Stop stops the plugin and waits for it.
func (p *Plugin) Stop() {
	if p.stop == nil {
		return
	}
	p.stop()
	p.stop = nil
	_ = p.conn.Close()
	if err := <-p.done; err != nil {
		p.t.Errorf("the plugin ended with %v", err)
	}
	if p.t.Failed() {
		p.t.Logf("the plugin said:\n%s", p.Log)
	}
}

// Eventually waits for something to become true.
func (p *Plugin) Eventually(what string, ok func() bool) {
	p.t.Helper()
	testkit.Eventually(p.t, what, ok)
}

// Status asks for the status.
func (p *Plugin) Status() (*kmsv2.StatusResponse, error) {
	return p.Client.Status(p.t.Context(), &kmsv2.StatusRequest{})
}

// Ready waits until the plugin is healthy, and returns the key id.
func (p *Plugin) Ready() string {
	p.t.Helper()
	var id string
	p.Eventually("the plugin is healthy", func() bool {
		s, err := p.Status()
		id = s.GetKeyId()
		return err == nil && s.GetHealthz() == "ok"
	})
	return id
}

// Condition is the plugin's, for tests that check more than the API server can see.
func (p *Plugin) Condition() plugin.Condition { return p.Server.Condition() }

// Main runs a package's tests with a prepared Vault, and returns the exit code.
func Main(m *testing.M, vault **vaulttest.Server) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	server, err := vaulttest.Start(ctx, vaulttest.Options{Progress: os.Stderr})
	if err == nil {
		defer func() { _ = server.Stop() }()
		*vault = server
		err = Prepare(ctx, server)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Gate is a TCP proxy before Vault that can be shut.
type Gate struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	state gateState
	conns map[net.Conn]bool
}

type gateState int

const (
	gateOpen gateState = iota
	// gateShut closes connections at once, as a machine does whose Vault is down.
	gateShut
	// gateDead accepts connections and never answers, as after a network failure.
	gateDead
)

// NewGate makes an open gate before the address of an http or https URL.
func NewGate(t testing.TB, url string) *Gate {
	t.Helper()
	l := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	_, target, _ := strings.Cut(url, "://")
	g := &Gate{listener: l, target: target, conns: map[net.Conn]bool{}}
	go g.accept()
	t.Cleanup(func() {
		_ = l.Close()
		g.set(gateShut)
	})
	return g
}

// URL is where the gate listens, with the scheme of Vault's URL.
func (g *Gate) URL(scheme string) string { return scheme + "://" + g.listener.Addr().String() }

// Shut closes all connections, and accepts no others.
func (g *Gate) Shut() { g.set(gateShut) }

// Dead lets all connections hang, and new ones too.
func (g *Gate) Dead() { g.set(gateDead) }

// Open undoes Shut and Dead.
func (g *Gate) Open() { g.set(gateOpen) }

func (g *Gate) set(s gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = s
	if s == gateDead {
		return // what is under way is held up in copy
	}
	for c := range g.conns {
		_ = c.Close()
	}
	clear(g.conns)
}

func (g *Gate) accept() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		state := g.state
		if state != gateShut {
			g.conns[c] = true
		}
		g.mu.Unlock()
		switch state {
		case gateShut:
			_ = c.Close()
		case gateOpen:
			go g.serve(c)
		}
	}
}

func (g *Gate) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	to, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	g.mu.Lock()
	g.conns[to] = true
	g.mu.Unlock()
	done := make(chan struct{}, 2)
	go func() { g.copy(to, c); done <- struct{}{} }()
	go func() { g.copy(c, to); done <- struct{}{} }()
	<-done
}

// copy forwards the data, unless the gate is dead.
func (g *Gate) copy(to io.Writer, from io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		g.mu.Lock()
		dead := g.state == gateDead
		g.mu.Unlock()
		if n > 0 && !dead {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
