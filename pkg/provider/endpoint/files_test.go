package endpoint_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/providertest"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// poolOf is one that lets classes name files beneath the directories.
func poolOf(t testing.TB, dirs ...string) *endpoint.Pool {
	t.Helper()
	files := testkit.Value(endpoint.NewFiles(dirs))(t)
	return &endpoint.Pool{Logger: slog.New(slog.DiscardHandler), Names: names, Files: files, AllowLocal: true}
}

func link(t testing.TB, to, name string) {
	t.Helper()
	testkit.Must(t, os.Symlink(to, name))
}

// mounted makes a directory as Kubernetes mounts a ConfigMap or Secret.
func mounted(t testing.TB, dir, name, text string) {
	t.Helper()
	payload := filepath.Join(dir, "..2026_11_28_01_00_00.1")
	testkit.Must(t, os.MkdirAll(payload, 0o750))
	testkit.Must(t, os.WriteFile(filepath.Join(payload, name), []byte(text), 0o600))
	link(t, filepath.Base(payload), filepath.Join(dir, "..data"))
	link(t, "..data/"+name, filepath.Join(dir, name))
}

// TestClassFiles: a file that a class names is beneath a listed directory, after all links, or
// gives one error, which is the same whether the file exists.
func TestClassFiles(t *testing.T) {
	_, ca := secure(t)
	top, outside := t.TempDir(), t.TempDir()
	listed := filepath.Join(top, "listed")
	mounted(t, filepath.Join(listed, "configmap"), "ca.crt", ca)
	write(t, outside, "ca.crt", ca)
	write(t, listed, "plain", ca)
	write(t, top, "listed-too", ca)
	write(t, listed, "text", "no certificate")
	link(t, filepath.Join(outside, "ca.crt"), filepath.Join(listed, "absolute"))
	link(t, filepath.Join(outside, "nothing"), filepath.Join(listed, "absolute-to-nothing"))
	link(t, "../listed-too", filepath.Join(listed, "relative"))
	link(t, outside, filepath.Join(listed, "dir"))
	link(t, "/proc/self/fd/0", filepath.Join(listed, "magic"))
	link(t, "loop", filepath.Join(listed, "loop"))
	testkit.Must(t, unix.Mkfifo(filepath.Join(listed, "fifo"), 0o600))
	const refused = "leads to no file beneath the directories"
	for _, c := range []struct{ path, want string }{
		{"plain", ""}, {"configmap/ca.crt", ""}, {"configmap/..data/ca.crt", ""}, {"../listed/plain", ""},
		{"text", "it holds no PEM"}, {"nothing", "no such file"}, {"configmap", "it is not a regular file"}, {"fifo", "it is not a regular file"},
		{"absolute", refused}, {"absolute-to-nothing", refused}, {"relative", refused}, {"dir/ca.crt", refused}, {"dir/nothing", refused},
		{"magic", refused}, {"loop", refused}, {"../listed-too", refused}, {"../nothing", refused},
	} {
		settings := endpoint.TLS{CACertFile: listed + "/" + c.path}
		_, err := poolOf(t, listed).Get(t.Context(), endpoint.Target{Address: mustParse(t, "https://gw"), TLS: settings}, time.Now())
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		case c.want == refused && (fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), "at caFile") || !strings.Contains(err.Error(), "--class-file-dirs")):
			t.Errorf("%s: %s: %v", c.path, fault.Of(err), err)
		}
	}
	for path, good := range map[string]bool{listed: true, listed + "/configmap": true, listed + "/dir": false, outside: false} {
		_, err := poolOf(t, listed).Get(t.Context(), endpoint.Target{Address: mustParse(t, "https://gw"), TLS: endpoint.TLS{CACertDir: path}}, time.Now())
		if (err == nil) != good || !good && !strings.Contains(err.Error(), refused) {
			t.Errorf("directory %s: %v", path, err)
		}
	}
}

// TestDirectoryIsBounded reads no more of a directory than its limits.
func TestDirectoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	big := strings.Repeat("x", 1<<20)
	for i := range 9 {
		write(t, dir, string(rune('a'+i)), big)
	}
	_, err := getFrom(t, endpoint.Target{Address: mustParse(t, "https://gw"), TLS: endpoint.TLS{CACertDir: dir}})
	testkit.Says(t, err, "its files are larger than")
}

// TestOperatorsFiles: the operator's authorities are for every server, the
// client certificate for the operator's own.
func TestOperatorsFiles(t *testing.T) {
	_, ca := secure(t)
	cert, key := newPair(t)
	dir := t.TempDir()
	own := endpoint.Target{Address: mustParse(t, "https://own:8200/base"), TLS: endpoint.TLS{
		CACertFile: write(t, dir, "ca", ca), ClientCertFile: write(t, dir, "cert", cert), ClientKeyFile: write(t, dir, "key", key),
	}}
	pool := newPool(t, own)
	for address, c := range map[string]struct {
		settings endpoint.TLS
		good     bool
	}{
		"https://own:8200":   {own.TLS, true},
		"https://own:8200/x": {own.TLS, true},
		"https://other":      {own.TLS.WithoutClient(), true},
		"https://own:8201":   {own.TLS, false},
		"https://other:8200": {own.TLS, false},
	} {
		_, err := pool.Get(t.Context(), endpoint.Target{Address: mustParse(t, address), TLS: c.settings}, time.Now())
		if (err == nil) != c.good || !c.good && fault.Of(err) != fault.NotAllowed {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestCheckDirs(t *testing.T) {
	top := t.TempDir()
	kubelet := filepath.Join(top, "kubelet")
	testkit.Must(t, os.MkdirAll(filepath.Join(kubelet, "pods"), 0o750))
	link(t, filepath.Join(kubelet, "pods"), filepath.Join(top, "link"))
	private := map[string]string{"kubelet's directory": kubelet, "the client key": filepath.Join(top, "client", "tls.key"), "nothing": ""}
	for dir, good := range map[string]bool{
		filepath.Join(top, "files"): true, filepath.Join(top, "kubelet-files"): true, filepath.Join(top, "client2"): true,
		kubelet: false, filepath.Join(kubelet, "pods", "x"): false, top: false, "/": false,
		filepath.Join(top, "link"): false, filepath.Join(top, "link", "x"): false, filepath.Join(top, "client"): false,
	} {
		if err := endpoint.CheckDirs([]string{dir}, private); (err == nil) != good || !good && !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if _, err := endpoint.NewFiles([]string{"files"}); err == nil {
		t.Error("a relative directory is taken")
	}
}

// TestHangingFileSystem: a caller returns when its context ends, and the number of goroutines does
// not grow with the number of callers. Other directories are not affected.
func TestHangingFileSystem(t *testing.T) {
	dir, end := providertest.HangingFileSystem(t)
	_, ca := secure(t)
	good := t.TempDir()
	pool := poolOf(t, dir, good)
	target := func(path, server string) endpoint.Target {
		return endpoint.Target{Address: mustParse(t, "https://gw"), TLS: endpoint.TLS{CACertFile: path, ServerName: server}}
	}
	before := runtime.NumGoroutine()
	for _, server := range strings.Fields("a b c d e a b c") {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				_, err := pool.Get(ctx, target(filepath.Join(dir, server), server), time.Now())
				if !errors.Is(err, context.DeadlineExceeded) || fault.Of(err) != fault.Timeout ||
					!strings.Contains(err.Error(), "at caFile: the file system gives no answer") && !strings.Contains(err.Error(), "waiting for the files of the TLS settings") {
					t.Errorf("%s: %s: %v", server, fault.Of(err), err)
				}
			})
		}
		callers.Wait()
		cancel()
	}
	testkit.Eventually(t, "one goroutine reads for all", func() bool { return runtime.NumGoroutine()-before <= 1 })
	if _, err := pool.Get(t.Context(), target(write(t, good, "ca", ca), ""), time.Now()); err != nil {
		t.Errorf("a file of another directory: %v", err)
	}
	if _, err := pool.Get(t.Context(), target("", ""), time.Now()); err != nil {
		t.Errorf("a server without files: %v", err)
	}
	end()
	if _, err := pool.Get(t.Context(), target(filepath.Join(dir, "a"), "a"), time.Now()); err == nil || fault.Of(err) != fault.InvalidClass {
		t.Errorf("after the file system's end: %v", err)
	}
}

// TestFilesHangLater: callers with working settings go on with them, and the next check of the
// files waits.
func TestFilesHangLater(t *testing.T) {
	address, ca := secure(t)
	good := t.TempDir()
	top := t.TempDir()
	link(t, good, filepath.Join(top, "files"))
	write(t, good, "ca", ca)
	target := endpoint.Target{Address: address, TLS: endpoint.TLS{CACertFile: filepath.Join(top, "files", "ca")}}
	pool, now := newPool(t, target), time.Now()
	e, err := pool.Get(t.Context(), target, now)
	testkit.Must(t, err)
	was := e.Transport()
	dir, _ := providertest.HangingFileSystem(t)
	testkit.Must(t, os.Remove(filepath.Join(top, "files")))
	link(t, dir, filepath.Join(top, "files"))
	for _, later := range []time.Duration{time.Minute, time.Minute + 10*time.Second} { // the second does not look
		if e, err = pool.Get(t.Context(), target, now.Add(later)); err != nil || e.Transport() != was {
			t.Errorf("after %s: %v", later, err)
		}
	}
	testkit.Must(t, get(e))
}
