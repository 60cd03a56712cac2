package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// vaultSession is Vault's side of one run over one volume.
type vaultSession struct {
	conn  *conn
	kinds *kinds
	// unrevoked are the logins whose tokens may not revoke themselves.
	unrevoked *session.Memory[login, struct{}]

	mu sync.Mutex
	// refused are the tokens to which the metadata of a request was refused.
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
	e, err := p.endpoints.Get(ctx, l.target, p.config.Now())
	if err != nil {
		return nil, err
	}
	return &vaultSession{
		conn: &conn{client: p.client, endpoint: e, login: l, caller: c}, kinds: &p.kinds, unrevoked: &p.unrevoked,
		refused: map[*session.Request]*session.Token{},
	}, nil
}

// Issues implements session.Session: the request is known to make a credential,
// or it may, since it is not a GET.
func (s *vaultSession) Issues(r *session.Request) bool {
	q := queryOf(r)
	if k, ok := s.kinds.of(s.conn.login, q); ok {
		return !k.Shareable() || q.method != http.MethodGet
	}
	return q.method != http.MethodGet || looksLeased(q)
}

// Leases implements session.Session.
func (s *vaultSession) Leases(r *session.Request) bool {
	q := queryOf(r)
	if k, ok := s.kinds.of(s.conn.login, q); ok {
		return k == session.Leased
	}
	return looksLeased(q)
}

// Batches implements session.Session: Vault answers one request at a time.
func (s *vaultSession) Batches(list []*session.Request) [][]*session.Request {
	return slices.Collect(slices.Chunk(list, 1))
}

// Warnings implements session.Session.
func (s *vaultSession) Warnings() []string { return nil }

// conn is the way of one run to its server: where it asks, by which login, and for
// whom.
type conn struct {
	client   *client
	endpoint *endpoint.Endpoint
	login    login
	caller   *session.Caller
}

func (c *conn) now() time.Time { return c.client.config.Now() }

func (c *conn) do(ctx context.Context, k call) (*endpoint.Reply, error) { return c.client.do(ctx, k) }

// call makes a request's call with a Vault token.
func (c *conn) call(t *session.Token, method, path string, query url.Values, body []byte) call {
	return call{
		endpoint: c.endpoint, operation: endpoint.OpCheck, namespace: c.login.namespace, tenant: c.caller.Pod.Namespace, token: t.Value,
		method: method, path: path, query: query, body: body,
		correlation: c.caller.Correlation, secrets: c.caller.Secrets(t), owner: c.caller.Owner(),
	}
}

// keepCall is a call that keeps alive or ends what a volume has. It must work in
// any case, so nobody is charged for its answer.
func (c *conn) keepCall(t *session.Token, o endpoint.Operation, method, path string, body []byte) call {
	k := c.call(t, method, path, nil, body)
	k.operation, k.owner = o, budget.Owner{}
	return k
}

func (c *conn) inNamespace() string {
	if c.login.namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %q", c.login.namespace)
}
