package akeyless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// akeylessSession is Akeyless' side of one run over one volume.
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
	pair, err := p.endpoints.GetPair(ctx, l.Target, l.Fallback, p.config.Now())
	if err != nil {
		return nil, err
	}
	to := &conn{settings: p.client.requests.Settings, client: p.client, pair: pair, login: l, caller: c}
	return &akeylessSession{conn: to, items: &descriptions{conn: to, kinds: &p.kinds, described: &p.described, noted: map[*item]description{}}}, nil
}

// longest bounds what Akeyless says of a lifetime.
const longest = 10 * 365 * 24 * time.Hour

// conn is the way of one run to its gateway: where it asks, by which login, and
// for whom.
type conn struct {
	settings *endpoint.Settings
	client   *client
	pair     endpoint.Pair
	login    login
	caller   *session.Caller
}

func (c *conn) now() time.Time { return c.settings.Now() }

// address is the first one, for errors.
func (c *conn) address() endpoint.Address { return c.pair.First.Address }

// do makes a call at the first gateway, or at the second while that is away.
func (c *conn) do(ctx context.Context, k call) (*endpoint.Reply, error) {
	return c.caller.Ask(c.pair, func(e *endpoint.Endpoint, hasOther bool) (*endpoint.Reply, error) {
		k.endpoint, k.hasOther = e, hasOther
		if k.body["gateway-url"] == c.address().String() { // it is to review the pod's token itself
			k.body = maps.Clone(k.body)
			k.body["gateway-url"] = e.Address.String()
		}
		return c.client.do(ctx, k)
	})
}

// ask makes a call with a token. One with status 401 may be the token's: then one
// new login is tried.
func (c *conn) ask(ctx context.Context, tokens session.Tokens, k call) (*endpoint.Reply, error) {
	k.owner, k.tenant = c.caller.Owner(), c.caller.Pod.Namespace
	k.about = strings.Join([]string{k.path, k.about}, " ")
	ask := func(t *session.Token) (*endpoint.Reply, error) {
		k.body["token"], k.secrets = t.Value.Reveal(), c.caller.Secrets(t)
		reply, err := c.do(ctx, k)
		if reply != nil && errors.Is(err, errUnauthorized) {
			t.RefusedBy(reply.From)
		}
		return reply, err
	}
	return session.AskTwice(c.now, tokens, ask, func(err error) bool { return errors.Is(err, errUnauthorized) })
}

// read asks for values, which may be as large as the operator allows.
func (c *conn) read(ctx context.Context, tokens session.Tokens, path, about string, body map[string]any) (*endpoint.Reply, error) {
	return c.ask(ctx, tokens, call{operation: endpoint.OpRead, path: path, about: about, body: body, reads: true})
}

// issue asks for what is made by the request, for which the answer may take longer
// than usual; patience is 0 for no longer.
func (c *conn) issue(ctx context.Context, tokens session.Tokens, path, about string, body map[string]any, patience time.Duration) (*endpoint.Reply, error) {
	return c.ask(ctx, tokens, call{operation: endpoint.OpIssue, path: path, about: about, body: body, issues: true, reads: true, patience: patience})
}

// look asks what something is, and not for a value.
func (c *conn) look(ctx context.Context, path string, body map[string]any, into any) error {
	tokens := func(stale *session.Token) (*session.Token, error) { return c.caller.Token(ctx, stale) }
	r, err := c.ask(ctx, tokens, call{operation: endpoint.OpCheck, path: path, body: body})
	if err != nil {
		return err
	}
	defer r.Release()
	return c.decode(r, into)
}

// decode reads a good answer.
func (c *conn) decode(r *endpoint.Reply, into any) error {
	if params.Decode(r.Body, into) != nil {
		return notJSON(c.address(), r)
	}
	return nil
}

// checkObject refuses what is no JSON object, of which values can be taken.
func (c *conn) checkObject(r *endpoint.Reply) error {
	if json.Valid(r.Body) && (params.IsObject(r.Body) || strings.TrimSpace(string(r.Body[:min(len(r.Body), 64)])) == "null") {
		return nil
	}
	return notJSON(c.address(), r)
}

func notJSON(a endpoint.Address, r *endpoint.Reply) error {
	return fault.New(fault.BadAnswer, "the answer of %s is not Akeyless' JSON (%s, %d bytes)", r.Server(a), contentType(r), len(r.Body)).
		WithHint("is this the address of an Akeyless gateway?")
}

// notAkeyless returns the error for an answer that is JSON, but not Akeyless'.
func notAkeyless(a endpoint.Address, what string) error {
	return fault.New(fault.BadAnswer, "the answer of %s %s", a, what).WithHint(hintForeign)
}

// explain adds what was attempted, and what a person can do about it. A login
// that failed says all that itself.
func (c *conn) explain(it *item, err error) error {
	if err == nil || singleflight.IsOwn(err) {
		return err
	}
	out := fault.New(fault.Of(err), "reading %s: %w", it, err)
	out.RetryAfter = fault.RetryAfter(err)
	var said *fault.Error
	if errors.As(err, &said) && said.Hint != "" {
		return out
	}
	switch out.Reason {
	case fault.Denied:
		return out.WithHint("a role of access ID %q must allow read on the item, to this service account if it goes by claims", c.login.AccessID)
	case fault.NotFound:
		return out.WithHint("there is no such item, or the role does not let the pod know of it")
	case fault.Rejected:
		return out.WithHint("%s", typeHint(it))
	}
	return out
}

func typeHint(it *item) string {
	if it.kind == detected {
		return "set the object's secretType if the item is not a static secret"
	}
	return fmt.Sprintf("is the item really of type %s?", it.kind)
}

// Revoke implements session.Session. A credential that the store does not know is
// over already. Where the store refuses, or the pod has nothing left to log in
// with, it ends by its time to live: to try again would not help.
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
	s.conn.settings.Logger.Warn("a dynamic credential could not be ended, so it lives out its time", logkey.Item, r.Name, logkey.Credential, r.LeaseID, logkey.Ends, r.Expires, logkey.Error, err)
	return nil
}

func (c *conn) revoke(ctx context.Context, r session.Revocation, login func(context.Context, bool) (*session.Token, error), again bool) error {
	t, err := login(ctx, again)
	if err != nil {
		return err
	}
	const path = "/dynamic-secret-tmp-creds-delete"
	_, err = c.do(ctx, call{
		operation: endpoint.OpRevoke, tenant: c.caller.Pod.Namespace, path: path,
		body:  map[string]any{"name": r.Name, "tmp-creds-id": r.LeaseID, "token": t.Value.Reveal()},
		about: path + " " + r.Name, secrets: c.caller.Secrets(t),
	})
	return err
}
