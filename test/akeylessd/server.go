// Package akeylessd is a double of an Akeyless gateway: the part of its API that Mayfly uses, over
// HTTP on loopback, with answers that depend on the caller. Requests and answers have the form of
// Akeyless' published OpenAPI description, against which the nested module openapi checks all of
// them.
package akeylessd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/test/issuer"
)

const (
	maxRequest = 4 << 20
	// maxLogins bounds the idle connections to the issuer.
	maxLogins = 64
)

// Options change how a Server works; the zero value is ready for use.
type Options struct {
	// Now is the clock; time.Now where nil.
	Now func() time.Time
	// Issuer verifies the service account tokens of access types k8s and jwt.
	Issuer *issuer.Issuer
	// Wrap sees every exchange; may be nil.
	Wrap func(http.Handler) http.Handler
	// Latency delays every answer for which a gateway must ask Akeyless' service, which is all but
	// what it has in its cache. The request takes effect before the delay.
	Latency time.Duration
	// Cache is how long answers with static and rotated secrets are cached, unless the request says
	// ignore-cache; gateways can be configured so.
	Cache time.Duration
	// CachedLatency is added to the answers from the cache.
	CachedLatency time.Duration
}

// Server is a running double. Its methods may be called concurrently.
type Server struct {
	options Options
	url     string
	server  *http.Server
	stopped chan error
	ca      *authority
	// reviewer reaches the issuer, over connections enough for a burst of
	// logins.
	reviewer *http.Client

	mu           sync.Mutex
	methods      map[string]Method
	rules        []Rule
	tokens       map[string]*session
	items        map[string]*item
	alive        map[string]lease
	credentials  int // issued dynamic credentials
	issued       int
	counts       map[string]int
	disturbances []*Disturbance
	released     chan struct{} // closed by Heal
	cache        map[string]cached
}

// SetCache changes Options.Cache from now on.
func (s *Server) SetCache(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.Cache = d
}

// Start serves on a free loopback port until Close.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	ca, err := newAuthority(opts.Now())
	if err != nil {
		return nil, err
	}
	s := &Server{
		options: opts, stopped: make(chan error, 1), ca: ca, released: make(chan struct{}),
		reviewer: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxLogins}},
		methods:  map[string]Method{}, tokens: map[string]*session{}, items: map[string]*item{},
		alive: map[string]lease{}, counts: map[string]int{}, cache: map[string]cached{},
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	s.url = "http://" + listener.Addr().String()
	handler := http.Handler(http.HandlerFunc(s.serve))
	if opts.Wrap != nil {
		handler = opts.Wrap(handler)
	}
	s.server = &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { s.stopped <- s.server.Serve(listener) }()
	return s, nil
}

// Close stops the server at once and waits for it.
func (s *Server) Close() error {
	s.Heal()
	err := s.server.Close()
	s.reviewer.CloseIdleConnections()
	if served := <-s.stopped; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	s.stopped <- http.ErrServerClosed // so that a second Close returns too
	return err
}

// URL is the base of the API.
func (s *Server) URL() string { return s.url }

// Counts are the requests so far by path, the disturbed included.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// answer is a status and a JSON body; nil for an empty body.
type answer struct {
	status int
	body   any
	// cached says that the answer did not need Akeyless' service.
	cached bool
}

func good(body any) answer { return answer{status: http.StatusOK, body: body} }

func failure(status int, format string, args ...any) answer {
	return answer{status: status, body: map[string]string{"error": fmt.Sprintf(format, args...)}}
}

// handler answers one call. It is called with mu held.
type handler func(s *Server, who *session, request map[string]json.RawMessage) answer

func handlers() map[string]handler {
	return map[string]handler{
		"/get-secret-value":                (*Server).getSecretValue,
		"/describe-item":                   (*Server).describeItem,
		"/describe-permissions":            (*Server).describePermissions,
		"/list-roles":                      (*Server).listRoles,
		"/get-rotated-secret-value":        (*Server).getRotatedSecretValue,
		"/get-certificate-value":           (*Server).getCertificateValue,
		"/get-dynamic-secret-value":        (*Server).getDynamicSecretValue,
		"/dynamic-secret-tmp-creds-delete": (*Server).deleteCredentials,
		"/get-pki-certificate":             (*Server).getPKICertificate,
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		send(w, failure(http.StatusRequestEntityTooLarge, "request body too large"))
		return
	}
	if s.disturbed(w, r) {
		return
	}
	a := s.answer(r, body)
	latency := s.options.Latency
	if a.cached {
		latency = s.options.CachedLatency
	}
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	send(w, a)
}

func (s *Server) answer(r *http.Request, body []byte) answer {
	var request map[string]json.RawMessage
	switch {
	case r.Method != http.MethodPost:
		return failure(http.StatusMethodNotAllowed, "method not allowed")
	case json.Unmarshal(body, &request) != nil:
		return failure(http.StatusBadRequest, "invalid request body")
	case r.URL.Path == "/auth":
		return s.auth(r.Context(), request)
	}
	handle, ok := handlers()[r.URL.Path]
	if !ok {
		return failure(http.StatusNotFound, "unknown command")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	who, refusal := s.whoAsks(request)
	if refusal != nil {
		return *refusal
	}
	return s.cached(r.URL.Path, who, request, handle)
}

func send(w http.ResponseWriter, a answer) {
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	// A failed write means that the client has disconnected.
	_ = json.NewEncoder(w).Encode(a.body)
}

func text(request map[string]json.RawMessage, name string) string {
	var s string
	if json.Unmarshal(request[name], &s) != nil {
		return ""
	}
	return s
}

func number(request map[string]json.RawMessage, name string) int {
	n, err := strconv.Atoi(strings.Trim(string(request[name]), `"`))
	if err != nil {
		return 0
	}
	return n
}

// Disturbed is a header of answers that are not Akeyless'.
const Disturbed = "X-Disturbed"

// Disturbance replaces the answers of requests.
type Disturbance struct {
	// Path is which requests; empty for all.
	Path string
	// Times is how many; 0 for all until Heal.
	Times int
	// Hang leaves the request open until Heal, or until the client disconnects.
	Hang bool
	// Held receives a value for each request that hangs, if it has space for it.
	Held chan<- struct{}
	// Cut closes the connection halfway through an answer.
	Cut bool
	// Status and Body are sent; RetryAfter goes along.
	Status     int
	Body       string
	Header     http.Header
	RetryAfter time.Duration
}

// Disturb adds a disturbance; the first that fits a request applies.
func (s *Server) Disturb(d Disturbance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disturbances = append(s.disturbances, &d)
}

// Heal ends all disturbances, and answers the requests that hang.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disturbances = nil
	close(s.released)
	s.released = make(chan struct{})
}

// disturbed counts the request, and reports whether it answered it.
func (s *Server) disturbed(w http.ResponseWriter, r *http.Request) bool {
	d, released := s.disturbance(r.URL.Path)
	switch {
	case d == nil:
		return false
	}
	w.Header().Set(Disturbed, "true")
	switch {
	case d.Hang:
		select {
		case d.Held <- struct{}{}:
		default:
		}
		select {
		case <-released:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case d.Cut:
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"value":`)
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), d.Header)
	if d.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfter.Seconds())))
	}
	if strings.HasPrefix(d.Body, "{") {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(d.Status)
	_, _ = io.WriteString(w, d.Body)
	return true
}

func (s *Server) disturbance(path string) (*Disturbance, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[path]++
	for i, d := range s.disturbances {
		if d.Path != "" && d.Path != path {
			continue
		}
		if d.Times > 0 {
			if d.Times--; d.Times == 0 {
				s.disturbances = append(s.disturbances[:i:i], s.disturbances[i+1:]...)
			}
		}
		return d, s.released
	}
	return nil, s.released
}
