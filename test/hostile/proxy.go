package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
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

// proxy forwards to the Vault that all tenants share. For the hostile tenant's paths and tokens
// it behaves as a Vault with broken backends: a path hangs, or fails, once armed; revocations are
// slow. It records when the pods' tokens are revoked.
type proxy struct {
	server *httptest.Server
	next   *httputil.ReverseProxy

	mu      sync.Mutex
	armed   bool
	owners  map[string]podOf     // by Vault token
	revoked map[string]time.Time // by the pod's UID
}

type loginKey struct{}

func startProxy(target string) *proxy {
	p := &proxy{owners: map[string]podOf{}, revoked: map[string]time.Time{}}
	p.next = &httputil.ReverseProxy{
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(r *httputil.ProxyRequest) {
			to, err := url.Parse(target)
			if err != nil {
				panic(http.ErrAbortHandler) // our own Vault's address
			}
			r.SetURL(to)
		},
		ModifyResponse: p.noteLogin,
	}
	p.server = httptest.NewServer(p)
	return p
}

func (p *proxy) url() string { return p.server.URL }

func (p *proxy) close() {
	p.server.CloseClientConnections()
	p.server.Close()
	if t, ok := p.next.Transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// arm makes the hostile tenant's paths fail.
func (p *proxy) arm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = true
}

// revokedAt tells when the last token of a pod was revoked.
func (p *proxy) revokedAt(uid string) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.revoked[uid]
	return at, ok
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/login") {
		r = withLogin(r)
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
	p.next.ServeHTTP(w, r)
	if revocation && owner.Pod.UID != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.revoked[owner.Pod.UID] = time.Now()
	}
}

// withLogin reads which pod logs in, and restores the body.
func withLogin(r *http.Request) *http.Request {
	pod, body := readLogin(r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r.WithContext(context.WithValue(r.Context(), loginKey{}, pod))
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

// noteLogin records whose token Vault has just made.
func (p *proxy) noteLogin(answer *http.Response) error {
	pod, ok := answer.Request.Context().Value(loginKey{}).(podOf)
	if !ok {
		return nil
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	var login struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	if json.Unmarshal(body, &login) == nil && login.Auth.ClientToken != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.owners[login.Auth.ClientToken] = pod
	}
	return nil
}

// hang waits as long as the client does, up to a limit. A disconnect shows only once the body is
// read.
func hang(r *http.Request, longest time.Duration) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxLogin)) // a client that is gone shows below
	r.Body = io.NopCloser(bytes.NewReader(body))
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
	case <-timer.C:
	}
}

func answer(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}
