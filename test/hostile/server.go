package main

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"
)

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
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	ended := time.After(longestHang)
	for {
		if _, err := io.WriteString(w, " "); err != nil || flusher.Flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-ended:
			return
		}
	}
}
