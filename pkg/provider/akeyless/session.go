package akeyless

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
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
	e, err := p.endpoints.Get(ctx, l.Target, p.config.Now())
	if err != nil {
		return nil, err
	}
	to := &conn{client: p.client, endpoint: e, login: l, caller: c}
	return &akeylessSession{conn: to, items: &descriptions{conn: to, kinds: &p.kinds, described: &p.described, noted: map[*item]description{}}}, nil
}

// conn is the way of one run to its gateway: where it asks, by which login, and
// for whom.
type conn struct {
	client   *client
	endpoint *endpoint.Endpoint
	login    login
	caller   *session.Caller
}

func (c *conn) now() time.Time { return c.client.config.Now() }

// ask makes a call with a token. One with status 401 may be the token's: then one
// new login is tried.
func (c *conn) ask(ctx context.Context, tokens session.Tokens, k call) (*endpoint.Reply, error) {
	k.owner, k.endpoint, k.tenant = c.caller.Owner(), c.endpoint, c.caller.Pod.Namespace
	k.about = strings.Join([]string{k.path, k.about}, " ")
	ask := func(t *session.Token) (*endpoint.Reply, error) {
		k.body["token"], k.secrets = t.Value.Reveal(), c.caller.Secrets(t)
		return c.client.do(ctx, k)
	}
	return session.AskTwice(c.now, tokens, ask, func(err error) bool { return errors.Is(err, errUnauthorized) })
}

// explain adds what was attempted, and what a person can do about it. A login
// that failed says all that itself.
func (c *conn) explain(it *item, err error) error {
	if singleflight.IsOwn(err) {
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
	s.conn.client.config.Logger.Warn("a dynamic credential could not be ended, so it lives out its time", logkey.Item, r.Name, logkey.Credential, r.LeaseID, logkey.Ends, r.Expires, logkey.Error, err)
	return nil
}

func (c *conn) revoke(ctx context.Context, r session.Revocation, login func(context.Context, bool) (*session.Token, error), again bool) error {
	t, err := login(ctx, again)
	if err != nil {
		return err
	}
	const path = "/dynamic-secret-tmp-creds-delete"
	_, err = c.client.do(ctx, call{
		endpoint: c.endpoint, operation: endpoint.OpRevoke, tenant: c.caller.Pod.Namespace, path: path,
		body:  map[string]any{"name": r.Name, "tmp-creds-id": r.LeaseID, "token": t.Value.Reveal()},
		about: path + " " + r.Name, secrets: c.caller.Secrets(t),
	})
	return err
}
