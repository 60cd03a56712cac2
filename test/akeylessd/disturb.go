package akeylessd

import (
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

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
