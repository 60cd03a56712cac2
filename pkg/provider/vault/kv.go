package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Unchanged implements session.Checker: it reads the metadata of a KV v2 secret whose
// value was read not too long ago.
func (s *vaultSession) Unchanged(ctx context.Context, r *session.Request, before *session.Reading) *session.Reading {
	path, ok := metadataPath(r)
	if !ok || !before.Answer.Revision.Known() || s.conn.Caller.Facts().Has(factNoMetadata+r.ID) || !session.VersionWillDo(before.Read, s.conn.Now()) {
		return nil
	}
	t := s.conn.Caller.CurrentToken()
	if t == nil || t.Limited() {
		return nil // the read logs in if that is due, and needs one use instead of two
	}
	asked := s.conn.Now()
	reply, err := s.conn.look(ctx, t, path)
	if err != nil {
		if reason := fault.Of(err); reason == fault.Denied || reason == fault.NotFound {
			s.mu.Lock()
			s.refused[r] = t
			s.mu.Unlock()
		}
		return nil
	}
	defer reply.Release()
	if currentVersion(reply.Body, s.conn.Now()) != before.Answer.Revision {
		return nil
	}
	return before.Again(asked, s.conn.Now(), t, s.conn.Caller.Correlation)
}

// readOf records that the identity may not read the metadata, if the token with which it
// was refused has read the value: the token is valid, so the policy forbids it.
func (s *vaultSession) readOf(r *session.Request, rd *session.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.refused[r]; t != nil && rd.Token == t {
		s.conn.Caller.Facts().Set(factNoMetadata+r.ID, struct{}{})
	}
}

// The facts that are remembered of an identity: the mounts of paths that were refused, and
// the requests for which the metadata cannot be used, mostly because the policy forbids
// it.
const (
	factMount      = "mount "
	factNoMetadata = "no metadata "
)

// currentVersion returns the version in a secret's metadata; zero if it is deleted. With
// delete_version_after, a version has a deletion time in the future.
func currentVersion(body []byte, now time.Time) session.Revision {
	var m struct {
		Data struct {
			Current  json.Number `json:"current_version"`
			Versions map[string]struct {
				Created   string `json:"created_time"`
				Deleted   string `json:"deletion_time"`
				Destroyed bool   `json:"destroyed"`
			} `json:"versions"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &m) != nil {
		return session.Revision{}
	}
	v, ok := m.Data.Versions[m.Data.Current.String()]
	if !ok || v.Destroyed {
		return session.Revision{}
	}
	if v.Deleted != "" {
		if at, err := time.Parse(time.RFC3339Nano, v.Deleted); err != nil || !at.After(now) {
			return session.Revision{}
		}
	}
	return session.Revision{Number: m.Data.Current.String(), Changed: v.Created}
}

// deletedVersion explains the absence of a deleted KV v2 secret.
func deletedVersion(r *endpoint.Reply, now time.Time) string {
	var body struct {
		Data struct {
			Metadata struct {
				Version   json.Number `json:"version"`
				Deleted   string      `json:"deletion_time"`
				Destroyed bool        `json:"destroyed"`
			} `json:"metadata"`
		} `json:"data"`
	}
	if r == nil || json.Unmarshal(r.Body, &body) != nil {
		return ""
	}
	m := body.Data.Metadata
	switch {
	case m.Destroyed:
		return fmt.Sprintf("version %s was destroyed", m.Version)
	case m.Deleted != "":
		if at, err := time.Parse(time.RFC3339Nano, m.Deleted); err == nil && !at.After(now) {
			return fmt.Sprintf("version %s was deleted at %s; it can be undeleted", m.Version, at.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// errOutdated is in the error for an answer with an older version.
var errOutdated = errors.New("the answer is older than what this node read before")

// outdated returns an error if an answer is older than an earlier one: an older version of
// a KV v2 secret that was also created earlier. The deletion of a version does not make
// the one before it current, and a secret that was created again begins at 1, with a later
// time.
func (c *conn) outdated(r *session.Request, rd *session.Reading) error {
	q := queryOf(r)
	if version := q.query.Get("version"); version != "" && version != "0" {
		return nil // the class asks for this version
	}
	for _, before := range c.Caller.Earlier(r) {
		if !older(rd.Answer.Revision, before.Answer.Revision) {
			continue
		}
		err := fault.New(fault.Unavailable, "reading %s%s from %s: version %s, after version %s: %w",
			q, c.inNamespace(), c.login.Address, rd.Answer.Revision.Number, before.Answer.Revision.Number, errOutdated).
			WithHint("a standby is behind the active server; where the store was restored from a backup, write the secret again")
		err.RetryAfter = session.SureAfter
		return err
	}
	return nil
}

// older reports whether v is an earlier state of the same secret.
func older(v, o session.Revision) bool {
	n, err := strconv.ParseInt(v.Number, 10, 64)
	m, oerr := strconv.ParseInt(o.Number, 10, 64)
	if err != nil || oerr != nil || n >= m {
		return false
	}
	at, err := time.Parse(time.RFC3339Nano, v.Changed)
	before, oerr := time.Parse(time.RFC3339Nano, o.Changed)
	return err == nil && oerr == nil && !at.After(before)
}

// withData adds the hint that the path of a secret of a KV version 2 engine has data/.
func (c *conn) withData(err *fault.Error, path string) error {
	return err.WithHint("a KV engine of version 2 is mounted there: secretPath must be %q, and %s", path, c.mustGrant("read", "that path"))
}

// kvPath returns the path that was meant if a secret of a KV version 2 engine was
// requested without data/; the second result is a guess if Vault does not say what is
// mounted there. The default policy allows every token that request for a path of which it
// may read something. It is sent once, after a refusal.
func (c *conn) kvPath(ctx context.Context, t *session.Token, r *request) (known, maybe string) {
	if !r.mayLackData() {
		return "", ""
	}
	m, ok := c.mountOf(ctx, t, r)
	switch rest, under := strings.CutPrefix(r.path, m.path); {
	case !ok:
		return "", r.withData()
	case !m.versioned || !under || rest == "" || strings.HasPrefix(rest, "data/") || strings.HasPrefix(rest, "metadata/"):
		return "", ""
	default:
		return m.path + "data/" + rest, ""
	}
}

// mounted describes the mount of a path.
type mounted struct {
	path      string // with a slash at its end
	versioned bool   // a KV engine of version 2
}

// mountOf asks Vault for the mount of a request's path.
func (c *conn) mountOf(ctx context.Context, t *session.Token, r *request) (m mounted, ok bool) {
	facts, key := c.Caller.Facts(), factMount+r.path
	if known, ok := facts.Get(key); ok {
		m, _ = known.(mounted)
		return m, m.path != ""
	}
	if t == nil || t.Limited() {
		return m, false
	}
	const preflight = "sys/internal/ui/mounts/"
	reply, err := c.look(ctx, t, preflight+r.path)
	if err != nil {
		if fault.Of(err) == fault.Denied {
			facts.Set(key, mounted{})
		}
		return m, false
	}
	defer reply.Release()
	var body struct {
		Data struct {
			Path    string            `json:"path"`
			Type    string            `json:"type"`
			Options map[string]string `json:"options"`
		} `json:"data"`
	}
	if json.Unmarshal(reply.Body, &body) != nil {
		return m, false
	}
	m = mounted{body.Data.Path, body.Data.Type == "kv" && body.Data.Options["version"] == "2"}
	facts.Set(key, m)
	return m, m.path != ""
}

// mayLackData reports whether a request may be for a secret of a KV version 2 engine with
// a path without data/.
func (r *request) mayLackData() bool {
	elements := strings.Split(r.path, "/")
	if r.method != http.MethodGet || len(r.query) > 0 || len(elements) < 2 || elements[1] == "data" || r.looksLeased() {
		return false
	}
	return !slices.Contains([]string{"auth", "sys", "identity", "cubbyhole"}, elements[0])
}

// withData returns the path that was meant if the engine's mount has one element; empty if
// the path has data already.
func (r *request) withData() string {
	elements := strings.Split(r.path, "/")
	if slices.Contains(elements, "data") {
		return ""
	}
	return elements[0] + "/data/" + strings.Join(elements[1:], "/")
}

// metadataPath returns the path of a secret's versions in KV v2. It is empty if an object
// needs more than the data, if the class asks for a version, or if it is unclear which
// part of the path is the mount.
func metadataPath(of *session.Request) (string, bool) {
	r := queryOf(of)
	if of.Whole || len(r.query) > 0 || r.method != http.MethodGet || strings.Count("/"+r.path+"/", "/data/") != 1 {
		return "", false
	}
	return strings.Replace(r.path, "/data/", "/metadata/", 1), strings.Contains(r.path, "/data/")
}
