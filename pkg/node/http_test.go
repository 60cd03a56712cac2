package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// pipes is a listener whose connections live in memory, and so in the time of a
// test's bubble.
type pipes struct {
	accept chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{accept: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.accept <- server
	return client
}

func served(t *testing.T, h http.HandlerFunc, test func(p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p, server := newPipes(), newHTTPServer(h)
		done := make(chan error, 1)
		go func() { done <- server.Serve(p) }()
		defer func() {
			_ = server.Close()
			<-done
		}()
		test(p)
	})
}

func ok(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }

func get(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	testkit.Value(fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"))(t)
	return testkit.Value(http.ReadResponse(bufio.NewReader(conn), nil))(t)
}

// isClosed waits for the end of a connection, and returns when it came.
func isClosed(t *testing.T, conn net.Conn, within time.Duration) bool {
	t.Helper()
	if conn.SetReadDeadline(time.Now().Add(within)) != nil {
		return true // the other end has gone
	}
	_, err := io.Copy(io.Discard, conn)
	return err == nil || !strings.Contains(err.Error(), "timeout")
}

// A connection serves one request, and a client cannot keep it open.
func TestConnectionsEnd(t *testing.T) {
	for name, send := range map[string]string{
		"nothing":           "",
		"half a header":     "GET /healthz HT",
		"endless headers":   "GET /healthz HTTP/1.1\r\nHost: node\r\nX: " + strings.Repeat("x", 2*headerLimit),
		"a body that hangs": "GET /healthz HTTP/1.1\r\nHost: node\r\nContent-Length: 10\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			read := func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				ok(w, r)
			}
			served(t, read, func(p *pipes) {
				conn := p.dial()
				go func() { _, _ = io.WriteString(conn, send) }()
				if !isClosed(t, conn, readTimeout+time.Second) {
					t.Errorf("the connection is open after %s", readTimeout+time.Second)
				}
			})
		})
	}
	t.Run("a request", func(t *testing.T) {
		served(t, ok, func(p *pipes) {
			conn := p.dial()
			r := get(t, conn)
			if body, err := io.ReadAll(r.Body); err != nil || string(body) != "ok" || !r.Close {
				t.Errorf("%q, %v, close %t", body, err, r.Close)
			}
			if !isClosed(t, conn, time.Second) {
				t.Error("the connection stays open after its request")
			}
		})
	})
	t.Run("an answer that nobody takes", func(t *testing.T) {
		ended := make(chan struct{})
		h := func(w http.ResponseWriter, _ *http.Request) {
			defer close(ended)
			_, _ = w.Write(make([]byte, 1<<20))
		}
		synctest.Test(t, func(t *testing.T) {
			p, server := newPipes(), newHTTPServer(http.HandlerFunc(h))
			go func() { _ = server.Serve(p) }()
			conn := p.dial()
			_, _ = fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: node\r\n\r\n")
			time.Sleep(writeTimeout + time.Second)
			select {
			case <-ended:
			default:
				t.Error("the handler still writes")
			}
			testkit.Must(t, server.Close())
		})
	})
}

// Idle clients that fill the limit do not keep a probe out.
func TestTooManyConnections(t *testing.T) {
	served(t, ok, func(p *pipes) {
		var idle []net.Conn
		for range 2 * maxConnections {
			idle = append(idle, p.dial())
		}
		r := get(t, p.dial()) // no time passes in the bubble for it
		testkit.Equal(t, "the status of the probe", r.StatusCode, http.StatusOK)
		closed := 0
		for _, c := range idle {
			if isClosed(t, c, time.Nanosecond) {
				closed++
			}
		}
		if want := maxConnections + 1; closed != want {
			t.Errorf("%d of %d idle connections were closed, want %d: the oldest", closed, len(idle), want)
		}
	})
}

func TestServeHTTPEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	testkit.Must(t, serveHTTP(ctx, "a test", "127.0.0.1:0", http.HandlerFunc(ok)))
	if err := serveHTTP(t.Context(), "a test", "127.0.0.1:none", http.HandlerFunc(ok)); err == nil {
		t.Error("an address that cannot be used is no error")
	}
}

func TestIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:8096": true, "127.1.2.3:1": true, "[::1]:8096": true, "localhost:8096": true,
		":8096": false, "0.0.0.0:8096": false, "10.0.0.1:8096": false, "[::]:8096": false, "localhost.example:1": false, "nowhere": false,
	} {
		testkit.Equal(t, addr, isLoopback(addr), want)
	}
}

// A port in use stops nothing else, and is used once it is free.
func TestStatusWaitsForItsPort(t *testing.T) {
	taken := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
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
		testkit.Equal(t, "tries again after", <-tries, listenAgain)
	}
	testkit.Equal(t, "log lines", len(logged), 1)
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
		testkit.Equal(t, "the answer", string(text), "ok")
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
