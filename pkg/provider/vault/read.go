package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// staticTries is how often a static role is asked again while its password is
// being rotated.
const (
	staticTries        = 4
	longestStaticPause = 4 * time.Second
)

// refusedToken tells whether the store refused what another token may get.
func refusedToken(err error) bool {
	return fault.Of(err) == fault.Denied || strings.Contains(err.Error(), wordsLastUse)
}

// Read implements session.Session.
//
//  1. A token that is refused may be stale: then one new login is tried.
//  2. What has a better answer in a moment is asked for again: a password that
//     is being rotated, or a version that another server of the store has passed.
//  3. The answer must be Vault's. It tells of which kind it is, and for how long
//     it is good.
//  4. Of a large answer what the objects take is kept.
func (s *vaultSession) Read(ctx context.Context, tokens session.Tokens, batch []*session.Request) (map[*session.Request]session.Read, error) {
	r := batch[0] // Batches makes no larger ones
	rd, err := s.ask(ctx, tokens, r)
	if err != nil {
		return nil, err
	}
	s.readOf(r, rd)
	return map[*session.Request]session.Read{r: {Reading: rd}}, nil
}

// Issue implements session.Session.
func (s *vaultSession) Issue(ctx context.Context, tokens session.Tokens, r *session.Request) (*session.Reading, error) {
	return s.ask(ctx, tokens, r)
}

func (s *vaultSession) ask(ctx context.Context, tokens session.Tokens, r *session.Request) (*session.Reading, error) {
	return session.AskTwice(s.now, tokens, func(t *session.Token) (*session.Reading, error) { return s.askWith(ctx, t, r) }, refusedToken)
}

// askWith makes the request and understands the answer.
func (s *vaultSession) askWith(ctx context.Context, t *session.Token, r *session.Request) (*session.Reading, error) {
	for n := 0; ; n++ {
		rd, err := s.askOnce(ctx, t, r)
		if err != nil {
			if fault.Of(err) == fault.NotFound && s.caller.Optional(r) && !session.IsNotServed(err) {
				return session.Absent(s.now(), t), nil
			}
			return nil, err
		}
		s.kinds.Set(keyOf(s.login, queryOf(r)), rd.Kind)
		rotating, outdated := rd.Kind == session.Static && !rd.End.After(rd.At), s.outdated(r, rd)
		if !rotating && outdated == nil {
			s.awaitRotation(r, rd)
			return rd, nil
		}
		if n < staticTries && t.Take(0) && backoff.Sleep(ctx, backoff.Delay(2*s.config.RetryBase, longestStaticPause, n, s.config.Jitter())) == nil {
			continue
		}
		if outdated != nil {
			return nil, outdated
		}
		return rd, nil
	}
}

// awaitRotation has a static role looked at again soon, and less and less
// often, while it has not made the change that it announced.
func (s *vaultSession) awaitRotation(r *session.Request, rd *session.Reading) {
	rotated := lastRotation(rd.Answer)
	for _, before := range s.caller.Earlier(r) {
		if end, late := overdue(before, rd, rotated); late {
			rd.End, rd.Due = end, session.UntilChange(rd.At, end)
		}
	}
}

func (s *vaultSession) askOnce(ctx context.Context, t *session.Token, r *session.Request) (*session.Reading, error) {
	q := queryOf(r)
	k := s.call(t, q.method, q.path, q.query, q.body)
	k.operation, k.reads, k.issues = endpoint.OpRead, true, s.Issues(r)
	if k.issues {
		k.operation = endpoint.OpIssue
	}
	asked := s.now()
	reply, err := s.client.do(ctx, k)
	if err != nil {
		return nil, s.explainRead(ctx, t, q, reply, err)
	}
	defer reply.Release()
	at := s.now()
	text := ownText(q.path, reply.Body)
	if text != nil {
		reply.Body = text
	}
	a, err := decodeAnswer(reply.Body, reply.ContentType)
	if err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", q, s.login.target.Address, atJSONPath(q, err))
	}
	if text == nil && !isOwnAnswer(q.path, reply.Body) {
		return nil, fault.New(fault.BadAnswer, "reading %s from %s: the answer is JSON, but not Vault's (%d bytes)", q, s.login.target.Address, len(reply.Body)).
			WithHint("%s", hintOfForeign(reply.Status))
	}
	is, end := classify(q, a, at)
	keys, whole := s.caller.Keys(r, is)
	if a, err = keep(a, keys, whole, session.Room(reply)); err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", q, s.login.target.Address, err)
	}
	rd := &session.Reading{Answer: a, Kind: is, Asked: asked, Read: asked, At: at, End: end, Token: t, Correlation: s.caller.Correlation}
	if is == session.Static {
		rd.Due = session.AfterChange(at, end, s.config.Jitter())
	}
	return rd, nil
}

// atJSONPath tells where there is an answer that can be read.
func atJSONPath(r *request, err error) error {
	if at := jsonPath(r.path); at != "" {
		return fault.New(fault.Of(err), "%w", err).WithHint("this path answers plain bytes: %s answers JSON, with the keys that it has", at)
	}
	return err
}

// wordsUnmounted are in Vault's answer for a path at which nothing is mounted.
const wordsUnmounted = "no handler for route"

// explainRead adds what was attempted, and what a person can do about it.
func (s *vaultSession) explainRead(ctx context.Context, t *session.Token, r *request, reply *endpoint.Reply, err error) error {
	out := fault.New(fault.Of(err), "reading %s%s: %w", r, s.inNamespace(), err)
	out.RetryAfter = fault.RetryAfter(err)
	switch out.Reason {
	case fault.Denied:
		capability := "read"
		if r.method != http.MethodGet {
			capability = "update"
		}
		known, maybe := s.kvPath(ctx, t, r)
		switch {
		case known != "":
			return s.withData(out, known)
		case maybe != "":
			return out.WithHint("the policies of role %q must grant %s on %q; if a KV engine of version 2 is mounted there, secretPath must be %q", s.login.role, capability, r.path, maybe)
		}
		return out.WithHint("the policies of role %q must grant %s on %q", s.login.role, capability, r.path)
	case fault.NotFound:
		if gone := deletedVersion(reply, s.now()); gone != "" {
			return out.WithHint("%s", gone)
		}
		if strings.Contains(err.Error(), wordsUnmounted) {
			return session.NotServed(out.WithHint("no engine is mounted there%s: correct the path, or mount the engine again; what a running pod has of it stays", s.inNamespace()))
		}
		if known, _ := s.kvPath(ctx, t, r); known != "" {
			return s.withData(out, known)
		}
		return out.WithHint("nothing is stored there, or no engine is mounted there; the path of a KV version 2 secret has data/ after the mount")
	}
	return out
}

// withData names the path of a secret of a KV version 2 engine.
func (s *vaultSession) withData(err *fault.Error, path string) error {
	return err.WithHint("a KV engine of version 2 is mounted there: secretPath must be %q, and the policies of role %q must grant read on that path", path, s.login.role)
}

// kvPath is the path that was meant where a secret of a KV version 2 engine is
// asked for without data/, and what it may be where the store does not say what
// is mounted there. The default policy lets every token ask that of a path that
// it may read something of. It is asked once, after a refusal.
func (s *vaultSession) kvPath(ctx context.Context, t *session.Token, r *request) (known, maybe string) {
	if !mayLackData(r) {
		return "", ""
	}
	m, ok := s.mountOf(ctx, t, r)
	switch rest, under := strings.CutPrefix(r.path, m.path); {
	case !ok:
		return "", withData(r)
	case !m.versioned || !under || rest == "" || strings.HasPrefix(rest, "data/") || strings.HasPrefix(rest, "metadata/"):
		return "", ""
	default:
		return m.path + "data/" + rest, ""
	}
}

// mounted is what is mounted at a path.
type mounted struct {
	path      string // with a slash at its end
	versioned bool   // tells that it is a KV engine of version 2
}

// mountOf asks what is mounted at the path of a request.
func (s *vaultSession) mountOf(ctx context.Context, t *session.Token, r *request) (m mounted, ok bool) {
	facts, key := s.caller.Facts(), factMount+r.path
	if known, ok := facts.Get(key); ok {
		m, _ = known.(mounted)
		return m, m.path != ""
	}
	if t == nil || t.Limited() {
		return m, false
	}
	const preflight = "sys/internal/ui/mounts/"
	reply, err := s.client.do(ctx, s.call(t, http.MethodGet, preflight+r.path, nil, nil))
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

// deletedVersion explains a KV v2 secret that is not there any more.
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

// Unchanged implements session.Checker: it looks at the metadata of a KV v2
// secret that was read before, not too long ago.
func (s *vaultSession) Unchanged(ctx context.Context, r *session.Request, before *session.Reading) *session.Reading {
	path, ok := metadataPath(queryOf(r))
	if !ok || !before.Answer.Revision.Known() || s.caller.Facts().Has(factNoMetadata+r.ID) || !session.VersionWillDo(before.Read, s.now()) {
		return nil
	}
	t := s.caller.CurrentToken()
	if t == nil || t.Limited() {
		return nil // the read takes care of a login that is due, and spends one use and not two
	}
	asked := s.now()
	reply, err := s.client.do(ctx, s.call(t, http.MethodGet, path, nil, nil))
	if err != nil {
		if reason := fault.Of(err); reason == fault.Denied || reason == fault.NotFound {
			s.mu.Lock()
			s.refused[r] = t
			s.mu.Unlock()
		}
		return nil
	}
	defer reply.Release()
	if currentVersion(reply.Body, s.now()) != before.Answer.Revision {
		return nil
	}
	return before.Again(asked, s.now(), t, s.caller.Correlation)
}

// readOf notes that the metadata is not for the identity where it was refused to
// the token that the read was made with: the token is good, so it was the policy.
func (s *vaultSession) readOf(r *session.Request, rd *session.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.refused[r]; t != nil && rd.Token == t {
		s.caller.Facts().Set(factNoMetadata+r.ID, struct{}{})
	}
}

// The facts that are remembered of an identity: what is mounted at paths that
// were refused, and for which requests a look at the metadata does not do,
// mostly because the policy does not allow it.
const (
	factMount      = "mount "
	factNoMetadata = "no metadata "
)

// metadataPath is where KV v2 tells the versions. It is not known where an
// object wants more than the data, where the class asks for a version, or
// where it is not clear which part of the path is the mount's.
func metadataPath(r *request) (string, bool) {
	if r.whole || len(r.query) > 0 || r.method != http.MethodGet || strings.Count("/"+r.path+"/", "/data/") != 1 {
		return "", false
	}
	return strings.Replace(r.path, "/data/", "/metadata/", 1), strings.Contains(r.path, "/data/")
}

// currentVersion is that of a secret's metadata; zero if it is deleted. With
// delete_version_after a version has a deletion time that is still to come.
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

// errOutdated is in the error of a read that gave an older version.
var errOutdated = errors.New("the answer is older than what this node read before")

// outdated is the error for an answer that is older than one that was had
// before: an older version of a KV v2 secret, created earlier. A deleted
// version does not bring back the one before it, and a secret that was made
// again counts from 1, but later.
func (s *vaultSession) outdated(r *session.Request, rd *session.Reading) error {
	q := queryOf(r)
	if version := q.query.Get("version"); version != "" && version != "0" {
		return nil // the class wants it
	}
	for _, before := range s.caller.Earlier(r) {
		if !older(rd.Answer.Revision, before.Answer.Revision) {
			continue
		}
		err := fault.New(fault.Unavailable, "reading %s%s from %s: version %s, after version %s: %w",
			q, s.inNamespace(), s.login.target.Address, rd.Answer.Revision.Number, before.Answer.Revision.Number, errOutdated).
			WithHint("a standby is behind the active server; where the store was restored from a backup, write the secret again")
		err.RetryAfter = session.SureAfter
		return err
	}
	return nil
}

// older tells whether v is an earlier state of the same secret.
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
