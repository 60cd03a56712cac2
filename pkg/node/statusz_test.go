package node

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:8096": true, "127.1.2.3:1": true, "[::1]:8096": true, "localhost:8096": true,
		":8096": false, "0.0.0.0:8096": false, "10.0.0.1:8096": false, "[::]:8096": false, "localhost.example:1": false, "nowhere": false,
	} {
		if got := isLoopback(addr); got != want {
			t.Errorf("%s: %t", addr, got)
		}
	}
}

// A port in use stops nothing else, and is used once it is free.
func TestStatusWaitsForItsPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.Must(t, err)
	addr := taken.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	tries := make(chan time.Duration)
	logged := make(chan struct{}, 8)
	done := make(chan error, 1)
	go func() {
		done <- serveAgain(ctx, addr, http.HandlerFunc(ok), slog.New(slog.NewTextHandler(signal(logged), nil)), func(d time.Duration) <-chan time.Time {
			tries <- d
			again := make(chan time.Time, 1)
			again <- time.Now()
			return again
		})
	}()
	for range 2 {
		if d := <-tries; d != listenAgain {
			t.Errorf("tries again after %s", d)
		}
	}
	if len(logged) != 1 {
		t.Errorf("logged %d times", len(logged))
	}
	_ = taken.Close()
	go func() {
		for range tries { // it may have tried before the port was free
		}
	}()
	testkit.Eventually(t, "the port is served", func() bool {
		resp, err := http.Get("http://" + addr)
		if err != nil {
			return false
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(text) != "ok" {
			t.Errorf("%q", text)
		}
		return true
	})

	stop()
	testkit.Must(t, <-done)
	close(tries)
}

// signal counts lines of a log.
type signal chan struct{}

func (s signal) Write(p []byte) (int, error) {
	s <- struct{}{}
	return len(p), nil
}

func TestStatusCanBeOff(t *testing.T) {
	testkit.Must(t, (&Node{}).serveStatus(t.Context()))
}
