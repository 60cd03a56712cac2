package akeylessd

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Disturbed is a header of what is no answer of Akeyless'.
const Disturbed = "X-Disturbed"

// Disturbance is what happens to requests instead of their answer.
type Disturbance struct {
	// Path is which requests; empty for all.
	Path string
	// Times is how many; 0 for all until Heal.
	Times int
	// Hang keeps the request open until Heal or the client's end.
	Hang bool
	// Held is sent a value for each request that hangs, if it has room for it.
	Held chan<- struct{}
	// Cut ends the connection halfway through an answer.
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

// Heal ends all disturbances, and lets go of the requests that hang.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disturbances = nil
	close(s.released)
	s.released = make(chan struct{})
}

// disturbed counts the request, and tells whether it was dealt with.
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
	for name, values := range d.Header {
		w.Header()[name] = values
	}
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
