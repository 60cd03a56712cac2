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
	pair, err := p.endpoints.GetPair(ctx, l.Target, l.Fallback, p.config.Now())
	if err != nil {
		return nil, err
	}
	to := &conn{settings: p.client.requests.Settings, client: p.client, pair: pair, login: l, caller: c}
	return &akeylessSession{conn: to, items: &descriptions{conn: to, kinds: &p.kinds, described: &p.described, noted: map[*item]description{}}}, nil
}

// longest bounds the lifetimes in Akeyless' answers.
const longest = 10 * 365 * 24 * time.Hour

// conn sends the requests of one run: it has the gateway, the login, and the volume.
type conn struct {
	settings *endpoint.Settings
	client   *client
	pair     endpoint.Pair
	login    login
	caller   *session.Caller
}

func (c *conn) now() time.Time { return c.settings.Now() }

// address returns the first address, for errors.
func (c *conn) address() endpoint.Address { return c.pair.First.Address }

// do sends a call to the first gateway, or to the second while the first is unavailable.
func (c *conn) do(ctx context.Context, k call) (*endpoint.Reply, error) {
	return c.caller.Ask(c.pair, func(e *endpoint.Endpoint, hasOther bool) (*endpoint.Reply, error) {
		k.endpoint, k.hasOther = e, hasOther
		if k.body["gateway-url"] == c.address().String() { // the gateway itself reviews the pod's token
			k.body = maps.Clone(k.body)
			k.body["gateway-url"] = e.Address.String()
		}
		return c.client.do(ctx, k)
	})
}

// ask sends a call with a token. After status 401, for which the token may be the reason,
// it tries one new login.
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

// read requests values, which may be as large as the operator allows.
func (c *conn) read(ctx context.Context, tokens session.Tokens, path, about string, body map[string]any) (*endpoint.Reply, error) {
	return c.ask(ctx, tokens, call{operation: endpoint.OpRead, path: path, about: about, body: body, reads: true})
}

// issue sends a request that creates something. The answer may take longer by patience.
func (c *conn) issue(ctx context.Context, tokens session.Tokens, path, about string, body map[string]any, patience time.Duration) (*endpoint.Reply, error) {
	return c.ask(ctx, tokens, call{operation: endpoint.OpIssue, path: path, about: about, body: body, issues: true, reads: true, patience: patience})
}

// look sends a request whose answer is no value.
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

// checkObject refuses an answer that is no JSON object.
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

// explain adds to an error what was attempted, and a hint, except to the error of a login,
// which has both.
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
