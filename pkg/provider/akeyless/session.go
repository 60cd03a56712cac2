package akeyless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// akeylessSession is Akeyless' part of one run over one volume.
type akeylessSession struct {
	conn  *conn
	items *descriptions
}

var (
	_ session.Session  = (*akeylessSession)(nil)
	_ session.Checker  = (*akeylessSession)(nil)
	_ session.Preparer = (*akeylessSession)(nil)
	_ session.Detacher = (*akeylessSession)(nil)
)

// Open implements session.Store.
func (p *Provider) Open(ctx context.Context, c *session.Caller) (session.Session, error) {
	l := loginOf(c.Login)
	one, err := session.NewConn(ctx, c, &p.client.requests, l.Target, l.Fallback)
	if err != nil {
		return nil, err
	}
	to := &conn{one, p.client, l}
	return &akeylessSession{conn: to, items: newDescriptions(to, &p.known)}, nil
}

// longest bounds the lifetimes in Akeyless' answers.
const longest = 10 * 365 * 24 * time.Hour

// conn sends the requests of one run.
type conn struct {
	session.Conn
	client *client
	login  login
}

// call returns the call of a request. about is its subject, so that the circuit breaker can
// distinguish one broken producer from a broken gateway.
func (c *conn) call(o endpoint.Operation, path, about string, body map[string]any) call {
	k := call{Call: c.Call(o), path: path, body: body}
	k.Caller.Path = path + " " + about
	return k
}

// ask sends a call with a token. After status 401, for which the token may be the reason,
// it tries one new login.
func (c *conn) ask(ctx context.Context, tokens session.Tokens, k call) (*endpoint.Reply, error) {
	ask := func(t *session.Token) (*endpoint.Reply, error) {
		k.body["token"], k.secrets = t.Value.Reveal(), c.Caller.Secrets(t)
		reply, err := c.Do(ctx, c.client.complete(k))
		if reply != nil && errors.Is(err, errUnauthorized) {
			t.RefusedBy(reply.From)
		}
		return reply, err
	}
	return session.AskTwice(c.Now, tokens, ask, func(err error) bool { return errors.Is(err, errUnauthorized) })
}

// read requests values, which may be as large as the operator allows.
func (c *conn) read(ctx context.Context, tokens session.Tokens, path, about string, body map[string]any) (*endpoint.Reply, error) {
	k := c.call(endpoint.OpRead, path, about, body)
	k.Reads = true
	return c.ask(ctx, tokens, k)
}

// issue sends a request that creates something. The answer may take longer by patience.
func (c *conn) issue(ctx context.Context, tokens session.Tokens, path, about string, body map[string]any, patience time.Duration) (*endpoint.Reply, error) {
	k := c.call(endpoint.OpIssue, path, about, body)
	k.Issues, k.Reads, k.Patience = true, true, patience
	return c.ask(ctx, tokens, k)
}

// uncharged sends a call that logs in or revokes. It must work in any case, so its answer is not
// charged. secrets must not appear in its error.
func (c *conn) uncharged(ctx context.Context, o endpoint.Operation, path, about string, body map[string]any, secrets []secret.String) (*endpoint.Reply, error) {
	k := c.call(o, path, about, body)
	k.Owner, k.secrets = budget.Owner{}, secrets
	return c.Do(ctx, c.client.complete(k))
}

// look sends a request whose answer is no value.
func (c *conn) look(ctx context.Context, path string, body map[string]any, into any) error {
	tokens := func(stale *session.Token) (*session.Token, error) { return c.Caller.Token(ctx, stale) }
	r, err := c.ask(ctx, tokens, c.call(endpoint.OpCheck, path, "", body))
	if err != nil {
		return err
	}
	defer r.Release()
	return decode(c.Address(), r, into)
}

// decode reads a good answer.
func decode(a endpoint.Address, r *endpoint.Reply, into any) error {
	if params.Decode(r.Body, into) != nil {
		return notJSON(a, r)
	}
	return nil
}

// checkObject refuses an answer that is no JSON object.
func (c *conn) checkObject(r *endpoint.Reply) error {
	if json.Valid(r.Body) && (params.IsObject(r.Body) || strings.TrimSpace(string(r.Body[:min(len(r.Body), 64)])) == "null") {
		return nil
	}
	return notJSON(c.Address(), r)
}

func notJSON(a endpoint.Address, r *endpoint.Reply) error {
	return fault.New(fault.BadAnswer, "the answer of %s is not Akeyless' JSON (%s)", r.Server(a), shape(r)).
		WithHint("is this the address of an Akeyless gateway?")
}

// notAkeyless returns the error for an answer that is JSON, but not Akeyless'.
func notAkeyless(a endpoint.Address, what string) error {
	return fault.New(fault.BadAnswer, "the answer of %s %s", a, what).WithHint(hintForeign)
}

// Revoke implements session.Session. A credential that the store does not know has ended
// already. If the store refuses, or the pod cannot log in any more, the credential expires
// by its TTL: another attempt would not help.
func (s *akeylessSession) Revoke(ctx context.Context, r session.Revocation, login func(context.Context, bool) (*session.Token, error)) error {
	err := s.conn.revoke(ctx, r, login, false)
	if errors.Is(err, errUnauthorized) {
		err = s.conn.revoke(ctx, r, login, true)
	}
	switch reason := fault.Of(err); {
	case err == nil, reason == fault.NotFound:
		return nil
	case reason.Outage(), reason == fault.Canceled, reason == fault.Internal:
		return fmt.Errorf("ending credential %q of dynamic item %q: %w", r.LeaseID, r.Name, err)
	}
	s.conn.Logger.Warn("a dynamic credential could not be ended, so it lives out its time", logkey.Item, r.Name, logkey.Credential, r.LeaseID, logkey.Ends, r.Expires, logkey.Error, err)
	return nil
}

func (c *conn) revoke(ctx context.Context, r session.Revocation, login func(context.Context, bool) (*session.Token, error), again bool) error {
	t, err := login(ctx, again)
	if err != nil {
		return err
	}
	const path = "/dynamic-secret-tmp-creds-delete"
	body := map[string]any{"name": r.Name, "tmp-creds-id": r.LeaseID, "token": t.Value.Reveal()}
	_, err = c.uncharged(ctx, endpoint.OpRevoke, path, r.Name, body, c.Caller.Secrets(t))
	return err
}
