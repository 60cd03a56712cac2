//go:build e2e

package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
)

// nowhere is an address whose name does not resolve.
const nowhere = "https://vault.invalid:8200"

// badAddresses are servers that are not Vault, and an address where nothing listens.
type badAddresses struct {
	page, hanging, tls *httptest.Server
	closed             string
	done               chan struct{}
}

func startBadAddresses() *badAddresses {
	s := &badAddresses{done: make(chan struct{})}
	s.page = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Please log in</html>")
	}))
	s.hanging = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-s.done:
		case <-r.Context().Done():
		}
	}))
	s.tls = httptest.NewUnstartedServer(http.NotFoundHandler())
	s.tls.Config.ErrorLog = log.New(io.Discard, "", 0) // no client trusts it
	s.tls.StartTLS()
	gone := httptest.NewServer(http.NotFoundHandler())
	s.closed = gone.URL
	gone.Close()
	return s
}

// plain is the address of the TLS server with the wrong scheme.
func (s *badAddresses) plain() string { return "http" + s.tls.URL[len("https"):] }

func (s *badAddresses) addresses() []any {
	return []any{s.page.URL, s.hanging.URL, s.tls.URL, s.plain(), s.closed, nowhere}
}

func (s *badAddresses) stop() {
	close(s.done)
	for _, server := range []*httptest.Server{s.page, s.hanging, s.tls} {
		server.CloseClientConnections()
		server.Close()
	}
}
