package vault

import (
	"context"
	"fmt"
	"net/http"
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

// ask makes a request with a token. One that is refused may be stale: then it asks
// once more, with another.
func (s *vaultSession) ask(ctx context.Context, tokens session.Tokens, r *session.Request) (*session.Reading, error) {
	return session.AskTwice(s.conn.now, tokens, func(t *session.Token) (*session.Reading, error) { return s.askWith(ctx, t, r) }, refusedToken)
}

// askWith makes the request until it has an answer that will do.
func (s *vaultSession) askWith(ctx context.Context, t *session.Token, r *session.Request) (*session.Reading, error) {
	settings := s.conn.settings
	for n := 0; ; n++ {
		// 1. What is missing is no error where the class does not mind.
		rd, err := s.askOnce(ctx, t, r)
		if err != nil && fault.Of(err) == fault.NotFound && s.conn.caller.Optional(r) && !session.IsNotServed(err) {
			return session.Absent(s.conn.now(), t), nil
		}
		if err != nil {
			return nil, err
		}
		q := queryOf(r)
		s.kinds.learn(s.conn.login, q.method, q.path, rd.Kind)
		// 2. Some answers are better in a moment: a password that is being rotated, or
		//    a version that another server of the store has passed.
		rotating, outdated := rd.Kind == session.Static && !rd.End.After(rd.At), s.conn.outdated(r, rd)
		if (rotating || outdated != nil) && n < staticTries && t.Take(0) &&
			backoff.Sleep(ctx, backoff.Delay(2*settings.RetryBase, longestStaticPause, n, settings.Jitter())) == nil {
			continue
		}
		if outdated != nil {
			return nil, outdated
		}
		// 3. A static role that has not made the change that it announced is looked at
		//    again soon, and less and less often.
		if !rotating {
			awaitRotation(s.conn.caller.Earlier(r), rd)
		}
		return rd, nil
	}
}

func awaitRotation(earlier []*session.Reading, rd *session.Reading) {
	rotated := lastRotation(rd.Answer)
	for _, before := range earlier {
		if end, late := overdue(before, rd, rotated); late {
			rd.End, rd.Due = end, session.UntilChange(rd.At, end)
		}
	}
}

// askOnce makes the request, and understands the answer.
func (s *vaultSession) askOnce(ctx context.Context, t *session.Token, r *session.Request) (*session.Reading, error) {
	// 1. Ask. What may make a credential is not asked for again by itself.
	c, q := s.conn, queryOf(r)
	asked := c.now()
	reply, err := c.ask(ctx, t, q, s.Issues(r))
	if err != nil {
		return nil, c.explainRead(ctx, t, q, reply, err)
	}
	defer reply.Release()
	at := c.now()
	// 2. The answer must be Vault's.
	text := ownText(q.path, reply.Body)
	if text != nil {
		reply.Body = text
	}
	a, err := decodeAnswer(reply.Body, reply.ContentType)
	if err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", q, c.login.target.Address, atJSONPath(q, err))
	}
	if text == nil && !isOwnAnswer(q.path, reply.Body) {
		return nil, fault.New(fault.BadAnswer, "reading %s from %s: the answer is JSON, but not Vault's (%d bytes)", q, c.login.target.Address, len(reply.Body)).
			WithHint("%s", hintOfForeign(reply.Status))
	}
	// 3. It tells of which kind it is, and for how long it is good.
	is, end := classify(q, a, at)
	// 4. Of a large answer what the objects take is kept.
	keys, whole := c.caller.Keys(r, is)
	if a, err = keep(a, keys, whole, session.Room(reply)); err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", q, c.login.target.Address, err)
	}
	rd := &session.Reading{Answer: a, Kind: is, Asked: asked, Read: asked, At: at, End: end, Token: t, Correlation: c.caller.Correlation}
	if is == session.Static {
		rd.Due = session.AfterChange(at, end, c.settings.Jitter())
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

// explainRead adds what was attempted, and what a person can do about it.
func (c *conn) explainRead(ctx context.Context, t *session.Token, r *request, reply *endpoint.Reply, err error) error {
	out := fault.New(fault.Of(err), "reading %s%s: %w", r, c.inNamespace(), err)
	out.RetryAfter = fault.RetryAfter(err)
	switch out.Reason {
	case fault.Denied:
		capability := "read"
		if r.method != http.MethodGet {
			capability = "update"
		}
		known, maybe := c.kvPath(ctx, t, r)
		switch {
		case known != "":
			return c.withData(out, known)
		case maybe != "":
			return out.WithHint("the policies of role %q must grant %s on %q; if a KV engine of version 2 is mounted there, secretPath must be %q", c.login.role, capability, r.path, maybe)
		}
		return out.WithHint("the policies of role %q must grant %s on %q", c.login.role, capability, r.path)
	case fault.NotFound:
		if gone := deletedVersion(reply, c.now()); gone != "" {
			return out.WithHint("%s", gone)
		}
		if strings.Contains(err.Error(), wordsUnmounted) {
			return session.NotServed(out.WithHint("no engine is mounted there%s: correct the path, or mount the engine again; what a running pod has of it stays", c.inNamespace()))
		}
		if known, _ := c.kvPath(ctx, t, r); known != "" {
			return c.withData(out, known)
		}
		return out.WithHint("nothing is stored there, or no engine is mounted there; the path of a KV version 2 secret has data/ after the mount")
	}
	return out
}
