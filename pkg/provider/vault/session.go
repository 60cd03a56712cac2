package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// vaultSession is Vault's part of one run over one volume.
type vaultSession struct {
	conn  *conn
	kinds *kinds
	// unrevoked has the logins whose tokens may not revoke themselves.
	unrevoked *session.Memory[login, struct{}]

	mu sync.Mutex
	// refused has the tokens with which the metadata of a request was refused.
	refused map[*session.Request]*session.Token
}

var (
	_ session.Session  = (*vaultSession)(nil)
	_ session.Renewer  = (*vaultSession)(nil)
	_ session.Verifier = (*vaultSession)(nil)
	_ session.Checker  = (*vaultSession)(nil)
)

// Open implements session.Store.
func (p *Provider) Open(ctx context.Context, c *session.Caller) (session.Session, error) {
	l := loginOf(c.Login)
	pair, err := p.endpoints.GetPair(ctx, l.target, l.fallback, p.config.Now())
	if err != nil {
		return nil, err
	}
	return &vaultSession{
		conn: &conn{settings: p.client.requests.Settings, client: p.client, pair: pair, login: l, caller: c}, kinds: &p.kinds, unrevoked: &p.unrevoked,
		refused: map[*session.Request]*session.Token{},
	}, nil
}

// Issues implements session.Session: the request is known to create a credential, or it
// may, because it is not a GET.
func (s *vaultSession) Issues(r *session.Request) bool {
	q := queryOf(r)
	if k, ok := s.kinds.of(s.conn.login, q); ok {
		return !k.Shareable() || q.method != http.MethodGet
	}
	return q.method != http.MethodGet || q.looksLeased()
}

// Leases implements session.Session.
func (s *vaultSession) Leases(r *session.Request) bool {
	q := queryOf(r)
	if k, ok := s.kinds.of(s.conn.login, q); ok {
		return k == session.Leased
	}
	return q.looksLeased()
}

// Batches implements session.Session: Vault answers one request at a time.
func (s *vaultSession) Batches(list []*session.Request) [][]*session.Request {
	return slices.Collect(slices.Chunk(list, 1))
}

// Warnings implements session.Session.
func (s *vaultSession) Warnings() []string { return nil }

// pathLookupSelf describes the token of the request. The default policy allows it.
const pathLookupSelf = "auth/token/lookup-self"

// conn sends the requests of one run: it has the server, the login, and the volume.
type conn struct {
	settings *endpoint.Settings
	client   *client
	pair     endpoint.Pair
	login    login
	caller   *session.Caller
}

func (c *conn) now() time.Time { return c.settings.Now() }

// do sends a call to the store's first address, or to the second while the first is
// unavailable.
func (c *conn) do(ctx context.Context, k call) (*endpoint.Reply, error) {
	reply, err := c.caller.Ask(c.pair, c.at(ctx, k))
	if reply != nil && k.with != nil && fault.Of(err) == fault.Denied {
		k.with.RefusedBy(reply.From)
	}
	return reply, err
}

// at sends a call to an endpoint.
func (c *conn) at(ctx context.Context, k call) func(*endpoint.Endpoint, bool) (*endpoint.Reply, error) {
	return func(e *endpoint.Endpoint, hasOther bool) (*endpoint.Reply, error) {
		k.endpoint, k.hasOther = e, hasOther
		return c.client.do(ctx, k)
	}
}

// call returns the call of a request, with a Vault token.
func (c *conn) call(t *session.Token, method, path string, query url.Values, body []byte) call {
	return call{
		operation: endpoint.OpCheck, namespace: c.login.namespace, tenant: c.caller.Pod.Namespace, token: t.Value, with: t,
		method: method, path: path, query: query, body: body,
		correlation: c.caller.Correlation, secrets: c.caller.Secrets(t), owner: c.caller.Owner(),
	}
}

// ask sends the request of an object. issues says that it may create a credential.
func (c *conn) ask(ctx context.Context, t *session.Token, r *request, issues bool) (*endpoint.Reply, error) {
	k := c.call(t, r.method, r.path, r.query, r.body)
	k.operation, k.reads, k.issues = endpoint.OpRead, true, issues
	if issues {
		k.operation = endpoint.OpIssue
	}
	return c.do(ctx, k)
}

// look sends a request whose answer is no secret.
func (c *conn) look(ctx context.Context, t *session.Token, path string) (*endpoint.Reply, error) {
	return c.do(ctx, c.call(t, http.MethodGet, path, nil, nil))
}

// keep sends a call that renews or revokes a volume's credentials. It must work in any
// case, so its answer is not charged. about distinguishes calls of one path.
func (c *conn) keep(ctx context.Context, t *session.Token, o endpoint.Operation, path, about string, arguments map[string]any) (*endpoint.Reply, error) {
	body := []byte("{}")
	if arguments != nil {
		var err error
		if body, err = json.Marshal(arguments); err != nil {
			return nil, fault.New(fault.Internal, "the request cannot be written")
		}
	}
	k := c.call(t, http.MethodPost, path, nil, body)
	k.operation, k.owner, k.renews, k.about = o, budget.Owner{}, o == endpoint.OpRenew, about
	return c.do(ctx, k)
}

// revokeSelf revokes a token with all its leases, at the address that gave it.
func (c *conn) revokeSelf(ctx context.Context, t *session.Token) error {
	k := c.call(t, http.MethodPost, "auth/token/revoke-self", nil, []byte("{}"))
	k.operation, k.owner = endpoint.OpRevoke, budget.Owner{}
	if _, err := c.pair.End(t.At, c.at(ctx, k)); err != nil {
		return fmt.Errorf("revoking a Vault token: %w", err)
	}
	return nil
}

func (c *conn) inNamespace() string {
	if c.login.namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %q", c.login.namespace)
}
