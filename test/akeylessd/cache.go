package akeylessd

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// cached is an answer that the gateway remembers.
type cached struct {
	answer
	until time.Time
}

// cached answers from the gateway's cache if that is enabled. It checks the caller's rights each
// time, and never caches a description.
func (s *Server) cached(path string, who *session, request map[string]json.RawMessage, handle handler) answer {
	fresh := handle(s, who, request)
	if s.options.Cache <= 0 || fresh.status != http.StatusOK || (path != "/get-secret-value" && path != "/get-rotated-secret-value") {
		return fresh
	}
	key := strings.Join([]string{path, string(request["names"]), string(request["version"])}, "\n")
	now := s.options.Now()
	if have, ok := s.cache[key]; ok && now.Before(have.until) && text(request, "ignore-cache") != "true" {
		return have.answer
	}
	s.cache[key] = cached{answer{fresh.status, fresh.body, true}, now.Add(s.options.Cache)}
	return fresh
}
