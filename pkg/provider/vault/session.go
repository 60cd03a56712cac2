package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// vaultSession is Vault's part of one run over one volume.
type vaultSession struct {
	conn  *conn
	kinds *kinds
	// allowCertAuth allows a login with a client certificate.
	allowCertAuth bool
	// unrevoked has the logins whose tokens may not revoke themselves.
	unrevoked *bounded.Map[login, struct{}]

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
	to, err := session.NewConn(ctx, c, &p.client.requests, l.Target, l.Fallback)
	if err != nil {
		return nil, err
	}
	return &vaultSession{conn: &conn{to, p.client, l}, kinds: &p.kinds, allowCertAuth: p.config.AllowCertAuth, unrevoked: &p.unrevoked, refused: map[*session.Request]*session.Token{}}, nil
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

// kinds remembers the kinds of answers.
type kinds struct {
	known bounded.Map[requestKey, session.Kind]
}

// requestKey identifies a request whose kind is remembered.
type requestKey struct {
	target       endpoint.Target
	namespace    string
	method, path string
}

func (k *kinds) of(l login, r *request) (session.Kind, bool) {
	return k.known.Get(requestKey{l.Target, l.Namespace, r.method, r.path})
}

func (k *kinds) learn(l login, method, path string, kind session.Kind) {
	k.known.Set(requestKey{l.Target, l.Namespace, method, path}, kind)
}

// pathLookupSelf describes the token of the request. The default policy allows it.
const pathLookupSelf = "auth/token/lookup-self"

// conn sends the requests of one run.
type conn struct {
	session.Conn
	client *client
	login  login
}

// do sends a call to the store's first address, or to the second while the first is
// unavailable.
func (c *conn) do(ctx context.Context, k call) (*endpoint.Reply, error) {
	reply, err := c.Do(ctx, c.client.complete(k))
	if reply != nil && k.token != nil && fault.Of(err) == fault.Denied {
		k.token.RefusedBy(reply.From)
	}
	return reply, err
}

// call returns the call of a request, with a Vault token; nil for none.
func (c *conn) call(o endpoint.Operation, t *session.Token, method, path string, body []byte) call {
	k := call{Call: c.Call(o), token: t, method: method, path: path, body: body, secrets: c.Caller.Secrets(t)}
	k.Caller.Namespace, k.Caller.Path, k.Correlation = c.login.Namespace, path+"\n", c.Caller.Correlation
	return k
}

// ask sends the request of an object. issues says that it may create a credential.
func (c *conn) ask(ctx context.Context, t *session.Token, r *request, issues bool) (*endpoint.Reply, error) {
	k := c.call(endpoint.OpRead, t, r.method, r.path, r.body)
	k.query, k.Reads, k.Issues = r.query, true, issues
	if issues {
		k.Operation = endpoint.OpIssue
	}
	return c.do(ctx, k)
}

// look sends a request whose answer is no secret.
func (c *conn) look(ctx context.Context, t *session.Token, path string) (*endpoint.Reply, error) {
	return c.do(ctx, c.call(endpoint.OpCheck, t, http.MethodGet, path, nil))
}

// keep sends a call that renews or revokes a volume's credentials. It must work in any
// case, so its answer is not charged. about distinguishes calls of one path that depend on
// different engines.
func (c *conn) keep(ctx context.Context, t *session.Token, o endpoint.Operation, path, about string, arguments map[string]any) (*endpoint.Reply, error) {
	body := []byte("{}")
	if arguments != nil {
		var err error
		if body, err = json.Marshal(arguments); err != nil {
			return nil, fault.New(fault.Internal, "the request cannot be written")
		}
	}
	k := c.call(o, t, http.MethodPost, path, body)
	k.Owner, k.renews = budget.Owner{}, o == endpoint.OpRenew
	k.Caller.Path += about
	return c.do(ctx, k)
}

// revokeSelf revokes a token with all its leases, at the address that gave it.
func (c *conn) revokeSelf(ctx context.Context, t *session.Token) error {
	k := c.call(endpoint.OpRevoke, t, http.MethodPost, "auth/token/revoke-self", []byte("{}"))
	k.Owner = budget.Owner{}
	if err := c.End(ctx, t.At, c.client.complete(k)); err != nil {
		return fmt.Errorf("revoking a Vault token: %w", err)
	}
	return nil
}

// mustGrant says what the policies of the login's role lack, for a hint.
func (c *conn) mustGrant(capability, path string) string {
	return fmt.Sprintf("the policies of role %q must grant %s on %s", c.login.Role, capability, path)
}

func (c *conn) inNamespace() string {
	if c.login.Namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %q", c.login.Namespace)
}
