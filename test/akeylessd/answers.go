package akeylessd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (s *Server) getSecretValue(who *session, request map[string]json.RawMessage) answer {
	var names []string
	if json.Unmarshal(request["names"], &names) != nil || len(names) == 0 {
		return failure(http.StatusBadRequest, "names is required")
	}
	out := map[string]any{}
	for _, name := range names {
		it, refusal := s.find(who, name, typeStatic)
		if refusal != nil {
			return *refusal
		}
		value, refusal := it.version(number(request, "version"))
		if refusal != nil {
			return *refusal
		}
		out[name] = value
	}
	return good(out)
}

func (s *Server) getRotatedSecretValue(who *session, request map[string]json.RawMessage) answer {
	return s.value(who, text(request, "names"), typeRotated, request, func(v any) any { return map[string]any{"value": v} })
}

func (s *Server) getCertificateValue(who *session, request map[string]json.RawMessage) answer {
	return s.value(who, text(request, "name"), typeCertificate, request, func(v any) any { return v })
}

func (s *Server) value(who *session, name, kind string, request map[string]json.RawMessage, shape func(any) any) answer {
	it, refusal := s.find(who, name, kind)
	if refusal != nil {
		return *refusal
	}
	v, refusal := it.version(number(request, "version"))
	if refusal != nil {
		return *refusal
	}
	return good(shape(v))
}

// describeItem answers 401 for an item that the caller may not see, as Akeyless does, whether or
// not it exists.
func (s *Server) describeItem(who *session, request map[string]json.RawMessage) answer {
	name := "/" + strings.TrimPrefix(text(request, "name"), "/")
	r, it := s.rule(who, name), s.items[name]
	if r == nil || r.NoDescribe || it == nil {
		return failure(http.StatusUnauthorized, "Unauthorized: item %s is not accessible", name)
	}
	return good(describe(it))
}

// describePermissions answers for any path, whether or not something is there.
func (s *Server) describePermissions(who *session, request map[string]json.RawMessage) answer {
	held := []string{}
	if r := s.rule(who, "/"+strings.TrimPrefix(text(request, "path"), "/")); r != nil {
		held = r.capabilities()
	}
	return good(map[string]any{"client_permissions": held})
}

// listRoles lets every login see the roles: one for each rule.
func (s *Server) listRoles(_ *session, request map[string]json.RawMessage) answer {
	const few = 2 // to a page
	start := number(request, "pagination-token")
	out := map[string]any{}
	roles := []any{}
	for i, r := range s.rules {
		if i < start {
			continue
		}
		if len(roles) == few {
			out["next_page"] = strconv.Itoa(i)
			break
		}
		claims := map[string][]string{}
		for claim, value := range r.Claims {
			claims[claim] = []string{value}
		}
		roles = append(roles, map[string]any{
			"role_name":               fmt.Sprintf("/roles/%d", i),
			"role_auth_methods_assoc": []any{map[string]any{"auth_method_access_id": r.AccessID, "auth_method_sub_claims": claims}},
			"rules":                   map[string]any{"path_rules": []any{map[string]any{"path": r.Prefix + "*", "type": "item-rule", "capabilities": r.capabilities()}}},
		})
	}
	out["roles"] = roles
	return good(out)
}

func (r *Rule) capabilities() []string {
	held := []string{"read", "update"}
	if !r.NoDescribe {
		held = append(held, "list")
	}
	return held
}

func describe(it *item) map[string]any {
	out := map[string]any{
		"item_name": it.name, "item_type": it.kind, "last_version": max(len(it.values), 1),
		"modification_date": it.modified.UTC().Format(time.RFC3339Nano), "is_enabled": true, "item_state": "Enabled",
	}
	if !it.next.IsZero() {
		out["next_rotation_date"] = it.next.UTC().Format(time.RFC3339)
	}
	return out
}

func (s *Server) getDynamicSecretValue(who *session, request map[string]json.RawMessage) answer {
	it, refusal := s.find(who, text(request, "name"), typeDynamic)
	if refusal != nil {
		return *refusal
	}
	s.credentials++
	id := "tmp." + random(8)
	s.alive[id] = lease{it.name, s.options.Now().Add(it.ttl)}
	return good(map[string]any{
		"id": id, "user": "tmp_" + random(4), "password": random(12), "ttl_in_minutes": strconv.Itoa(int(it.ttl.Minutes())),
	})
}

func (s *Server) deleteCredentials(who *session, request map[string]json.RawMessage) answer {
	it, refusal := s.find(who, text(request, "name"), typeDynamic)
	if refusal != nil {
		return *refusal
	}
	if s.rule(who, it.name).NoEnd {
		return failure(http.StatusForbidden, "Forbidden: deleting temporary credentials of %s is denied", it.name)
	}
	id := text(request, "tmp-creds-id")
	if l, ok := s.alive[id]; !ok || l.item != it.name {
		return failure(http.StatusNotFound, "temporary credentials %s were not found", id)
	}
	delete(s.alive, id)
	return answer{status: http.StatusCreated}
}

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
