package kms

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

var vault *vaulttest.Server

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // the API server says each failure that a test makes
	os.Exit(kmsrig.Main(m, &vault))
}

// probeInterval is the least time between two Status calls of a healthy API server.
const probeInterval = 25 * time.Second

// secretKey is where a Secret is in etcd.
func secretKey(n int) string { return fmt.Sprintf("/registry/secrets/shop/secret-%d", n) }

// marker must not be in any stored value.
const marker = "a-marker-that-is-nowhere-in-etcd"

func write(t testing.TB, a *APIServer, n int) []byte {
	t.Helper()
	stored, err := a.Write(t.Context(), secretKey(n), fmt.Appendf(nil, "%s-%d", marker, n))
	testkit.Must(t, err)
	if !bytes.HasPrefix(stored, []byte("k8s:enc:kms:v2:"+Provider+":")) || bytes.Contains(stored, []byte(marker)) {
		t.Fatalf("stored as %q", stored)
	}
	return stored
}

func read(t testing.TB, a *APIServer, n int, stored []byte) (stale bool) {
	t.Helper()
	plaintext, stale, err := a.Read(t.Context(), secretKey(n), stored)
	testkit.Must(t, err)
	if string(plaintext) != fmt.Sprintf("%s-%d", marker, n) {
		t.Fatalf("read %q", plaintext)
	}
	return stale
}

func modes(t *testing.T, test func(t *testing.T, flag string)) {
	t.Parallel()
	for _, flag := range []string{"--local-key=true", "--local-key=false"} {
		t.Run(strings.TrimPrefix(flag, "--"), func(t *testing.T) { t.Parallel(); test(t, flag) })
	}
}

// start waits until the API server works, as its own start does.
func start(t testing.TB, p *kmsrig.Plugin) *APIServer {
	t.Helper()
	p.Ready()
	a := StartAPIServer(t, p.Config.Serve.Socket)
	testkit.Eventually(t, "the API server's health check passes", func() bool { return a.Healthy() == nil })
	return a
}

// TestTenThousand counts the calls for 10,000 Secrets: at most one Encrypt for each start of an API
// server, and one Decrypt for each seed.
func TestTenThousand(t *testing.T) {
	const count = 10_000
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag, "--poll-interval=10m")
		p.Ready()
		all := make([][]byte, count)
		mark := r.Mark()
		a := start(t, p)
		for n := range all {
			all[n] = write(t, a, n)
		}
		got := r.Requests(mark)
		if got["encrypt"] > 1 || got["decrypt"] > 0 {
			t.Errorf("written: %v, want at most one Encrypt", got)
		}
		// The API server restarts, then the plugin with it.
		for _, restart := range []bool{false, true} {
			plugin := p
			if restart {
				plugin = r.Start(flag, "--poll-interval=10m")
				plugin.Ready()
			}
			mark := r.Mark()
			a := start(t, plugin)
			for n := range all {
				if read(t, a, n, all[n]) {
					t.Fatal("a value is stale after a restart")
				}
			}
			got := r.Requests(mark)
			want := 0
			if restart {
				want = 1
			}
			if got["encrypt"] > 1 || got["decrypt"] != want {
				t.Errorf("read after a restart (of the plugin too: %v): %v, want %d Decrypts and at most one Encrypt", restart, got, want)
			}
			t.Logf("%s, 10,000 values read after a restart (of the plugin too: %v): %d Encrypt, %d Decrypt at Vault", flag, restart, got["encrypt"], got["decrypt"])
		}
	})
}

// TestRotation: old values are stale and can be decrypted; new ones have the new key id.
func TestRotation(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag)
		a := start(t, p)
		old := write(t, a, 1)
		r.Rotate()
		p.Eventually("the plugin announces version 2", func() bool { v, _ := key.VersionOf(p.Ready()); return v == 2 })
		testkit.Eventually(t, "the API server sees the rotation", func() bool { _ = a.Healthy(); return read(t, a, 1, old) })
		if fresh := write(t, a, 1); read(t, a, 1, fresh) || !bytes.Contains(fresh, []byte(p.Ready())) {
			t.Error("what was written after the rotation is stale, or under another key id")
		}
		// Another API server, on another node, with a plugin that never saw version 1.
		b := start(t, r.Start(flag))
		if !read(t, b, 1, old) || read(t, b, 1, write(t, a, 1)) {
			t.Error("two nodes do not agree on what is stale")
		}
		if _, _, err := a.Read(t.Context(), secretKey(2), old); err == nil {
			t.Error("a value opens at another key of etcd")
		}
	})
}

// TestVaultAway is the promise of the local key: the API server restarts while
// Vault is down, as long as the plugin lives. Without it, it cannot.
func TestVaultAway(t *testing.T) {
	modes(t, func(t *testing.T, flag string) {
		r := kmsrig.New(t, vault)
		p := r.Start(flag, "--call-timeout=500ms")
		a := start(t, p)
		old := write(t, a, 1)
		r.Gate.Shut()
		p.Eventually("the outage shows in Status", func() bool { s, _ := p.Status(); return s.GetHealthz() != "ok" })
		read(t, a, 1, old)
		write(t, a, 2)
		restarted := StartAPIServer(t, p.Config.Serve.Socket)
		if flag == "--local-key=false" {
			testkit.Eventually(t, "the restarted API server has tried", func() bool { return restarted.Healthy() != nil })
			if _, err := restarted.Write(t.Context(), secretKey(3), []byte("x")); err == nil {
				t.Error("a restarted API server writes without Vault and without a local key")
			}
		} else {
			testkit.Eventually(t, "the restarted API server writes", func() bool {
				_, err := restarted.Write(t.Context(), secretKey(3), []byte("x"))
				return err == nil
			})
			read(t, restarted, 1, old)
			fresh := write(t, restarted, 4)
			read(t, a, 4, fresh)
			if err := restarted.Healthy(); err == nil || !strings.Contains(err.Error(), "Vault cannot be used since") {
				t.Errorf("the health check hides the outage: %v", err)
			}
		}
		r.Gate.Open()
		p.Ready()
		testkit.Eventually(t, "the restarted API server is well", func() bool { return restarted.Healthy() == nil })
		read(t, restarted, 1, old)
		write(t, restarted, 5)
	})
}
