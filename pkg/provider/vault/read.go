package vault

import (
	"context"
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

// staticTries is how often a static role is read again while its password is being
// rotated.
const (
	staticTries        = 4
	longestStaticPause = 4 * time.Second
)

// refusedToken reports whether Vault refused the token, so that a new one may succeed.
func refusedToken(err error) bool {
	return fault.Of(err) == fault.Denied || strings.Contains(err.Error(), wordsLastUse)
}

// Read implements session.Session.
func (s *vaultSession) Read(ctx context.Context, tokens session.Tokens, batch []*session.Request) (map[*session.Request]session.Read, error) {
	r := batch[0] // Batches makes batches of one
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

// ask sends a request with a token. If Vault refuses the token, which may be stale, it
// sends the request once more with another one.
func (s *vaultSession) ask(ctx context.Context, tokens session.Tokens, r *session.Request) (*session.Reading, error) {
	return session.AskTwice(s.conn.Now, tokens, func(t *session.Token) (*session.Reading, error) { return s.askWith(ctx, t, r) }, refusedToken)
}

// askWith sends the request until it has a usable answer.
func (s *vaultSession) askWith(ctx context.Context, t *session.Token, r *session.Request) (*session.Reading, error) {
	settings := s.conn.Settings
	for n := 0; ; n++ {
		// 1. A missing optional object is no error.
		rd, err := s.askOnce(ctx, t, r)
		if err != nil && fault.Of(err) == fault.NotFound && s.conn.Caller.Optional(r) && !session.IsNotServed(err) {
			return session.Absent(s.conn.Now(), t), nil
		}
		if err != nil {
			return nil, err
		}
		q := queryOf(r)
		s.kinds.learn(s.conn.login, q.method, q.path, rd.Kind)
		// 2. Repeat the request after a moment if a password is being rotated, or if the
		// answer has an older version than another server has returned.
		rotating, outdated := rd.Kind == session.Static && !rd.End.After(rd.At), s.conn.outdated(r, rd)
		if (rotating || outdated != nil) && n < staticTries && t.Take(0) &&
			backoff.Sleep(ctx, backoff.Delay(2*settings.RetryBase, longestStaticPause, n, settings.Jitter())) == nil {
			continue
		}
		if outdated != nil {
			return nil, outdated
		}
		// 3. If a static role has not made an announced change, read it again soon, and
		// then less and less often.
		if !rotating {
			awaitRotation(s.conn.Caller.Earlier(r), rd)
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

// askOnce sends the request once, and reads the answer.
func (s *vaultSession) askOnce(ctx context.Context, t *session.Token, r *session.Request) (*session.Reading, error) {
	// 1. Send it. A request that may create a credential is not repeated here.
	c, q := s.conn, queryOf(r)
	asked := c.Now()
	reply, err := c.ask(ctx, t, q, s.Issues(r))
	if err != nil {
		return nil, c.explainRead(ctx, t, q, reply, err)
	}
	defer reply.Release()
	at := c.Now()
	// 2. Check that the answer is Vault's own.
	text := ownText(q.path, reply.Body)
	if text != nil {
		reply.Body = text
	}
	a, err := decodeAnswer(reply.Body, reply.ContentType)
	if err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", q, c.login.Address, atJSONPath(q, err))
	}
	if text == nil && !isOwnAnswer(q.path, reply.Body) {
		return nil, fault.New(fault.BadAnswer, "reading %s from %s: the answer is JSON, but not Vault's (%d bytes)", q, c.login.Address, len(reply.Body)).
			WithHint("%s", hintOfForeign(reply.Status))
	}
	// 3. Find its kind and lifetime.
	is, end := classify(q.method, q.path, a, at)
	// 4. Keep only the needed keys of a large answer.
	keys, whole := c.Caller.Keys(r, is)
	if a, err = keep(a, keys, whole, session.Room(reply)); err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", q, c.login.Address, err)
	}
	rd := &session.Reading{Answer: a, Kind: is, Asked: asked, Read: asked, At: at, End: end, Token: t, Correlation: c.Caller.Correlation}
	if is == session.Static {
		rd.Due = session.AfterChange(at, end, c.Jitter())
	}
	return rd, nil
}

// atJSONPath names the path with a JSON answer, in an error.
func atJSONPath(r *request, err error) error {
	if at := jsonPath(r.path); at != "" {
		return fault.New(fault.Of(err), "%w", err).WithHint("this path answers plain bytes: %s answers JSON, with the keys that it has", at)
	}
	return err
}

// explainRead adds to an error what was attempted, and a hint.
func (c *conn) explainRead(ctx context.Context, t *session.Token, r *request, reply *endpoint.Reply, err error) error {
	out := fault.Wrap(fault.Of(err), err, "reading %s%s", r, c.inNamespace())
	switch out.Reason {
	case fault.Denied:
		capability := "read"
		if r.method != http.MethodGet {
			capability = "update"
		}
		grant := c.mustGrant(capability, strconv.Quote(r.path))
		known, maybe := c.kvPath(ctx, t, r)
		switch {
		case known != "":
			return c.withData(out, known)
		case maybe != "":
			return out.WithHint("%s; if a KV engine of version 2 is mounted there, secretPath must be %q", grant, maybe)
		}
		return out.WithHint("%s", grant)
	case fault.NotFound:
		if gone := deletedVersion(reply, c.Now()); gone != "" {
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
