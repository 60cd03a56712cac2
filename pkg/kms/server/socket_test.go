package server_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/audit"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/kms/server"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// socket is a path that is short enough for the kernel.
func socket(t *testing.T) server.Socket {
	t.Helper()
	dir := testkit.Value(os.MkdirTemp("", "kms"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return server.Socket{Path: filepath.Join(dir, "s", "kms.sock")}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info := testkit.Value(os.Lstat(path))(t)
	return info.Mode().Perm()
}

func TestSocketModes(t *testing.T) {
	s := socket(t)
	l := testkit.Value(s.Listen())(t)
	if dir, file := mode(t, filepath.Dir(s.Path)), mode(t, s.Path); dir != 0o700 || file != 0o600 {
		t.Errorf("modes %s and %s", dir, file)
	}
	testkit.Must(t, l.Close())
	if _, err := os.Lstat(s.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays after its end: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("giving files to a group needs root")
	}
	g := socket(t)
	g.Group = "65534"
	l = testkit.Value(g.Listen())(t)
	defer func() { _ = l.Close() }()
	info := testkit.Value(os.Lstat(g.Path))(t)
	if gid := info.Sys().(*syscall.Stat_t).Gid; mode(t, filepath.Dir(g.Path)) != 0o750 || mode(t, g.Path) != 0o660 || gid != 65534 {
		t.Errorf("modes %s and %s, group %d", mode(t, filepath.Dir(g.Path)), mode(t, g.Path), gid)
	}
	g.Group = "no-such-group"
	testkit.Error(g.Listen())(t, "--socket-group") // a group that is not there
}

// A dead process's socket is replaced, as after kill -9, and nothing else is.
func TestWhatIsInTheWay(t *testing.T) {
	s := socket(t)
	testkit.Must(t, os.MkdirAll(filepath.Dir(s.Path), 0o700))
	dead := testkit.Value(net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: s.Path}))(t)
	testkit.Error(s.Listen())(t, "another process serves the socket") // a living process's socket
	dead.SetUnlinkOnClose(false)
	testkit.Must(t, dead.Close())
	l := testkit.Value(s.Listen())(t)

	// Closing does not remove another process's socket at the same path.
	testkit.Must(t, os.Remove(s.Path))
	other := testkit.Value(net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: s.Path}))(t)
	testkit.Must(t, l.Close())
	if _, err := os.Lstat(s.Path); err != nil {
		t.Errorf("another process's socket is gone: %v", err)
	}
	testkit.Must(t, other.Close())

	testkit.Must(t, os.WriteFile(s.Path, []byte("precious"), 0o600))
	testkit.Error(s.Listen())(t, "in the way") // a file
	testkit.Equal(t, "the file", string(testkit.Value(os.ReadFile(s.Path))(t)), "precious")
	testkit.Must(t, os.Remove(s.Path))
	testkit.Must(t, os.Symlink("/run/precious.sock", s.Path))
	testkit.Error(s.Listen())(t, "in the way") // a link
}

func TestDirectoriesThatOthersCanWriteTo(t *testing.T) {
	s := socket(t)
	dir := filepath.Dir(s.Path)
	testkit.Must(t, os.Mkdir(dir, 0o700))
	testkit.Must(t, os.Chmod(dir, 0o777))
	if _, err := s.Listen(); err == nil || !strings.Contains(err.Error(), "--listen") || !strings.Contains(err.Error(), "others can write") {
		t.Errorf("a directory of mode 0777: %v", err)
	}
	testkit.Must(t, os.Remove(dir))
	testkit.Must(t, os.Symlink(t.TempDir(), dir))
	testkit.Error(s.Listen())(t, "no directory") // a link
}

// answers is a plugin with fixed answers.
type answers struct {
	mu     sync.Mutex
	err    error
	panics bool
}

func (a *answers) get() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.panics {
		panic("a secret")
	}
	return a.err
}

func (a *answers) set(err error, panics bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err, a.panics = err, panics
}

func (a *answers) Status() (id, healthz string, err error) { return "id", "ok", a.get() }

func (a *answers) Encrypt(context.Context, []byte, string) (plugin.Sealed, plugin.Trace, error) {
	return plugin.Sealed{ID: "id", Ciphertext: []byte("x")}, plugin.Trace{By: plugin.ByLocal}, a.get()
}

func (a *answers) Decrypt(context.Context, plugin.Sealed, string) ([]byte, plugin.Trace, error) {
	return []byte("seed"), plugin.Trace{By: plugin.ByVault}, a.get()
}

type meter struct {
	mu    sync.Mutex
	calls map[string]int
}

func (m *meter) Call(method string, code codes.Code, _ plugin.By, _ time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[method+" "+code.String()]++
}

type lines struct {
	mu  sync.Mutex
	all []audit.Event
}

func (l *lines) observe(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
}

func serve(t *testing.T, p server.Plugin, s server.Socket, allowed ...uint32) (kmsv2.KeyManagementServiceClient, *lines) {
	t.Helper()
	l := &lines{}
	srv := server.New(p, server.Options{
		Socket: s, AllowedUIDs: allowed, CallTimeout: time.Second, Meter: &meter{calls: map[string]int{}}, Audit: l.observe, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- srv.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		testkit.Check(t, <-done)
	})
	<-ready
	conn := testkit.Value(grpc.NewClient("unix:"+s.Path, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	t.Cleanup(func() { _ = conn.Close() })
	return kmsv2.NewKeyManagementServiceClient(conn), l
}

func TestCodesAndWords(t *testing.T) {
	a := &answers{}
	client, l := serve(t, a, socket(t))
	if s, err := client.Status(t.Context(), &kmsv2.StatusRequest{}); err != nil || s.GetVersion() != "v2" || s.GetHealthz() != "ok" || s.GetKeyId() != "id" {
		t.Errorf("%v, %v", s, err)
	}
	private := "https://vault.internal:8200 transit/keys/k"
	for _, tc := range []struct {
		err   error
		code  codes.Code
		words string
	}{
		{nil, codes.OK, ""},
		{fault.New(fault.Denied, "%s", private), codes.PermissionDenied, "Vault cannot be used: Denied"},
		{fault.New(fault.Unavailable, "%s", private), codes.Unavailable, "Vault cannot be used: Unavailable"},
		{fault.New(fault.Timeout, "%s", private), codes.DeadlineExceeded, "Timeout"},
		{fault.New(fault.InvalidArgument, "the ciphertext is empty"), codes.InvalidArgument, "the ciphertext is empty"},
		{errors.New(private), codes.Internal, "defect"},
	} {
		a.set(tc.err, false)
		_, err := client.Decrypt(t.Context(), &kmsv2.DecryptRequest{Uid: "u"})
		if status.Code(err) != tc.code || !strings.Contains(status.Convert(err).Message(), tc.words) || strings.Contains(status.Convert(err).Message(), "internal:8200") {
			t.Errorf("%v gave %v", tc.err, err)
		}
	}
	a.set(nil, true)
	if _, err := client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Uid: "u"}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a panic gave %v", err)
	}
	if _, err := client.Status(t.Context(), &kmsv2.StatusRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("a panic gave %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) < 6 || l.all[0].Peer.PID != int32(os.Getpid()) || l.all[0].UID != "u" || l.all[1].Code != codes.PermissionDenied {
		t.Errorf("%+v", l.all)
	}
}

func TestAllowedUIDs(t *testing.T) {
	uid := uint32(os.Geteuid())
	client, _ := serve(t, &answers{}, socket(t), uid+1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := client.Status(ctx, &kmsv2.StatusRequest{}); err == nil {
		t.Error("a user that is not allowed may call")
	}
	client, _ = serve(t, &answers{}, socket(t), uid)
	if _, err := client.Status(ctx, &kmsv2.StatusRequest{}); err != nil {
		t.Error(err)
	}
}
