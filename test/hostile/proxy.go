package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	// slowRevocation is less than the driver's timeout for a revocation.
	slowRevocation = 4 * time.Second
	// longestHang bounds a request that hangs.
	longestHang = 90 * time.Second
	maxLogin    = 64 << 10
)

// podOf is the pod that logs in, from its service account token.
type podOf struct {
	Namespace      string
	Pod            struct{ Name, UID string }
	ServiceAccount struct{ Name, UID string }
}

// parseJWT reads the claims of a service account token.
func parseJWT(token string) (pod podOf, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return podOf{}, false
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return podOf{}, false
	}
	var claims struct {
		Kubernetes podOf `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(data, &claims); err != nil || claims.Kubernetes.Namespace == "" {
		return podOf{}, false
	}
	return claims.Kubernetes, true
}

// proxy is before the Vault that all tenants share. For the hostile tenant's paths and tokens
// it behaves as a Vault with broken backends: a path hangs, or fails, once armed; revocations are
// slow. It records whose tokens are revoked.
type proxy struct {
	*testkit.Proxy

	mu      sync.Mutex
	armed   bool
	owners  map[string]podOf // by Vault token
	revoked map[string]bool  // by the pod's UID
}

func startProxy(target string) *proxy {
	p := &proxy{Proxy: testkit.StartProxy(target), owners: map[string]podOf{}, revoked: map[string]bool{}}
	p.Intercept(p.serve)
	return p
}

// arm makes the hostile tenant's paths fail.
func (p *proxy) arm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = true
}

// hasRevoked tells whether a token of a pod was revoked.
func (p *proxy) hasRevoked(uid string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revoked[uid]
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request, vault http.Handler) {
	if strings.HasSuffix(r.URL.Path, "/login") {
		p.login(w, r, vault)
		return
	}
	p.mu.Lock()
	owner, armed := p.owners[r.Header.Get("X-Vault-Token")], p.armed
	p.mu.Unlock()
	revocation := strings.HasSuffix(r.URL.Path, "/revoke-self")
	if owner.Namespace == evil {
		switch path := r.URL.Path; {
		case revocation:
			hang(r, slowRevocation)
		case armed && (strings.HasSuffix(path, "/renew-self") || strings.Contains(path, "/hang")):
			hang(r, longestHang)
			return
		case armed && strings.Contains(path, "/broken"):
			answer(w, http.StatusInternalServerError, `{"errors":["1 error occurred:\n\t* dial tcp 10.0.0.1:5432: connect: connection refused\n\n"]}`)
			return
		}
	}
	vault.ServeHTTP(w, r)
	if revocation && owner.Pod.UID != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.revoked[owner.Pod.UID] = true
	}
}

// login records whose token Vault makes.
func (p *proxy) login(w http.ResponseWriter, r *http.Request, vault http.Handler) {
	pod, body := readLogin(r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	made := httptest.NewRecorder()
	vault.ServeHTTP(made, r)
	var login struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	if json.Unmarshal(made.Body.Bytes(), &login) == nil && login.Auth.ClientToken != "" {
		p.mu.Lock()
		p.owners[login.Auth.ClientToken] = pod
		p.mu.Unlock()
	}
	testkit.Answer(w, made.Code, made.Header().Get("Content-Type"), made.Body.String())
}

func readLogin(r *http.Request) (podOf, []byte) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxLogin))
	if err != nil {
		return podOf{}, body
	}
	var login struct{ JWT string }
	_ = json.Unmarshal(body, &login) // one without a token is nobody's
	pod, _ := parseJWT(login.JWT)
	return pod, body
}

// hang waits as long as the client does, up to a limit. A disconnect shows only once the body is
// read.
func hang(r *http.Request, longest time.Duration) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxLogin)) // a client that is gone shows below
	r.Body = io.NopCloser(bytes.NewReader(body))
	pause(r.Context(), longest)
}

func answer(w http.ResponseWriter, code int, body string) {
	testkit.Answer(w, code, "application/json", body)
}

// server is one of the hostile tenant's own, which its classes name. It implements Vault's login
// and read. An attack changes its answers.
type server struct {
	*httptest.Server
	// read answers everything but logins, renewals and revocations.
	read http.HandlerFunc
	// revoke answers revocations.
	revoke http.HandlerFunc
	// login is the answer to a login.
	login func(podOf) string

	// sending is how many bytes are under way in answers now, as far as this
	// side sees, and most how many there were at most.
	sending, most atomic.Int64
}

const oneSecret = `{"request_id":"1","data":{"k":"v"}}`

// newServer starts one with HTTP, or with HTTPS that asks for a client certificate.
func newServer(https bool) *server {
	s := &server{
		read:   func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, oneSecret) },
		revoke: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		login:  func(pod podOf) string { return loginAnswer(pod, rand.Text(), time.Hour) },
	}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = silent() // TLS handshakes that the driver gives up
	if https {
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
		s.StartTLS()
	} else {
		s.Start()
	}
	return s
}

func (s *server) close() {
	s.CloseClientConnections()
	s.Close()
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	counted := &countingWriter{ResponseWriter: w, server: s}
	defer counted.end()
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/login"):
		pod, _ := readLogin(r)
		answer(counted, http.StatusOK, s.login(pod))
	case strings.HasSuffix(path, "/revoke-self"), strings.HasPrefix(path, "/v1/sys/leases/revoke"):
		s.revoke(counted, r)
	case strings.HasSuffix(path, "/renew-self"):
		answer(counted, http.StatusOK, s.login(podOf{}))
	default:
		s.read(counted, r)
	}
}

// loginAnswer is the answer of the kubernetes method.
func loginAnswer(pod podOf, token string, lasts time.Duration) string {
	data, err := json.Marshal(map[string]any{"request_id": "1", "auth": map[string]any{
		"client_token": token, "lease_duration": int(lasts.Seconds()), "renewable": true, "token_type": "service",
		"metadata": map[string]string{
			"role": "app", "service_account_name": pod.ServiceAccount.Name, "service_account_namespace": pod.Namespace,
			"service_account_secret_name": "", "service_account_uid": pod.ServiceAccount.UID,
		},
	}})
	if err != nil {
		panic(fmt.Sprintf("hostile: encoding a login: %v", err)) // plain data
	}
	return string(data)
}

// countingWriter counts the bytes of answers that are under way.
type countingWriter struct {
	http.ResponseWriter
	server *server
	bytes  int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	now := w.server.sending.Add(int64(n))
	for {
		most := w.server.most.Load()
		if now <= most || w.server.most.CompareAndSwap(most, now) {
			return n, err
		}
	}
}

func (w *countingWriter) end() { w.server.sending.Add(-w.bytes) }

// Unwrap lets http.ResponseController flush.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// writeBig writes an answer with a value k and the given amount of other data.
func writeBig(w http.ResponseWriter, key string, value string, junk int) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"request_id":"1","data":{"k":%q,%q:"`, value, key)
	if writeFill(w, junk) == nil {
		_, _ = io.WriteString(w, `"}}`)
	}
}

var fill = []byte(strings.Repeat("x", 64<<10))

func writeFill(w io.Writer, n int) error {
	for n > 0 {
		m, err := w.Write(fill[:min(n, len(fill))])
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// trickle writes single bytes with pauses until the client disconnects.
func trickle(w http.ResponseWriter, r *http.Request, every time.Duration) {
	w.Header().Set("Content-Type", "application/json")
	flusher := http.NewResponseController(w)
	ctx, cancel := context.WithTimeout(r.Context(), longestHang)
	defer cancel()
	for ok := true; ok; ok = pause(ctx, every) {
		if _, err := io.WriteString(w, " "); err != nil || flusher.Flush() != nil {
			return
		}
	}
}
