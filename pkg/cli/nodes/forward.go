package nodes

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
)

// forward is a connection through the API server and kubelet to the loopback interface of a pod. It
// opens no port of this machine.
type forward struct {
	conn httpstream.Connection
	port int

	mu   sync.Mutex
	last int // request
}

// dialForward connects as kubectl port-forward does: over a WebSocket, else SPDY.
func dialForward(ctx context.Context, c *cluster.Client, namespace, pod string, port int) (*forward, error) {
	said := &refusal{}
	dialer, err := newDialer(c, namespace, pod, said)
	if err != nil {
		return nil, err
	}
	type dialled struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan dialled, 1)
	go func() { // it takes no context
		conn, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		if err == nil && protocol != portforward.PortForwardProtocolV1Name {
			_ = conn.Close()
			err = fmt.Errorf("the API server answers a port-forward with the protocol %q", protocol)
		}
		if err != nil {
			err = cmp.Or(said.err, err)
		}
		done <- dialled{conn, err}
	}()
	select {
	case d := <-done:
		if d.err != nil {
			return nil, d.err
		}
		return &forward{conn: d.conn, port: port}, nil
	case <-ctx.Done():
		go func() {
			if d := <-done; d.err == nil {
				_ = d.conn.Close()
			}
		}()
		return nil, fmt.Errorf("connecting to the pod: %w", ctx.Err())
	}
}

func newDialer(c *cluster.Client, namespace, pod string, said *refusal) (httpstream.Dialer, error) {
	url := c.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	config := rest.CopyConfig(c.Config)
	config.Timeout = 0
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("preparing a port-forward: %w", err)
	}
	overSPDY := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: said.note(transport)}, http.MethodPost, url)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, config)
	if err != nil {
		return nil, fmt.Errorf("preparing a port-forward: %w", err)
	}
	return portforward.NewFallbackDialerForStreaming(overWebSocket, overSPDY, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// refusal records the API server's answer to a refused upgrade, of which the dialer returns only
// the text.
type refusal struct{ err error }

type roundTripper func(*http.Request) (*http.Response, error)

func (rt roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return rt(r) }

func (f *refusal) note(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil || resp.StatusCode < http.StatusBadRequest {
			return resp, err
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxFailure))
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		status := metav1.Status{}
		if json.Unmarshal(text, &status) == nil && status.Status == metav1.StatusFailure {
			f.err = &apierrors.StatusError{ErrStatus: status}
		}
		resp.Body = io.NopCloser(bytes.NewReader(text))
		return resp, nil
	})
}

func (f *forward) close() { _ = f.conn.Close() }

// open opens a connection to the pod's port.
func (f *forward) open() (net.Conn, error) {
	f.mu.Lock()
	id := f.last
	f.last++
	f.mu.Unlock()
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(f.port))
	h.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(id))
	failed, err := f.conn.CreateStream(h)
	if err != nil {
		return nil, fmt.Errorf("opening a port-forward: %w", err)
	}
	_ = failed.Close() // the client writes nothing to it
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := f.conn.CreateStream(h)
	if err != nil {
		f.conn.RemoveStreams(failed)
		return nil, fmt.Errorf("opening a port-forward: %w", err)
	}
	s := &stream{Stream: data, forward: f, failed: failed, failure: make(chan error, 1)}
	go s.watch()
	return s, nil
}

// stream is one connection to the pod.
type stream struct {
	httpstream.Stream
	forward *forward
	failed  httpstream.Stream
	failure chan error // kubelet's error for the connection
	once    sync.Once
}

// maxFailure bounds kubelet's error text, in bytes.
const maxFailure = 4 << 10

func (s *stream) watch() {
	text, err := io.ReadAll(io.LimitReader(s.failed, maxFailure))
	if err == nil && len(text) > 0 {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	s.failure <- err
}

// failureWait is how long to wait for the error after a connection has ended.
const failureWait = time.Second

// Read returns kubelet's error if the connection failed.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if n > 0 || err == nil {
		return n, err
	}
	select {
	case why := <-s.failure:
		s.failure <- nil
		if why != nil {
			return 0, why
		}
	case <-time.After(failureWait):
	}
	return 0, err
}

// Close implements net.Conn.
func (s *stream) Close() error {
	s.once.Do(func() {
		_ = s.Stream.Reset()
		s.forward.conn.RemoveStreams(s.Stream, s.failed)
	})
	return nil
}

// The rest of net.Conn: the context of a request bounds it and closes the connection.

func (s *stream) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *stream) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }
