package vault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// vaultSession is Vault's side of one run over one volume.
type vaultSession struct {
	*Provider
	caller   *session.Caller
	login    login
	endpoint *endpoint.Endpoint

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
	return &vaultSession{Provider: p, caller: c, login: l, endpoint: e, refused: map[*session.Request]*session.Token{}}, nil
}

func (s *vaultSession) now() time.Time { return s.config.Now() }

// call makes a request's call with a Vault token.
func (s *vaultSession) call(t *session.Token, method, path string, query url.Values, body []byte) call {
	return call{
		endpoint: s.endpoint, operation: endpoint.OpCheck, namespace: s.login.namespace, tenant: s.caller.Pod.Namespace, token: t.Value,
		method: method, path: path, query: query, body: body,
		correlation: s.caller.Correlation, secrets: s.caller.Secrets(t), owner: s.caller.Owner(),
	}
}

// keepCall is a call that keeps alive or ends what a volume has. It must work in
// any case, so nobody is charged for its answer.
func (s *vaultSession) keepCall(t *session.Token, o endpoint.Operation, method, path string, body []byte) call {
	k := s.call(t, method, path, nil, body)
	k.operation, k.owner = o, budget.Owner{}
	return k
}

// Issues implements session.Session: the request is known to make a credential,
// or it may, since it is not a GET.
func (s *vaultSession) Issues(r *session.Request) bool {
	q := queryOf(r)
	if k, ok := s.kinds.Get(keyOf(s.login, q)); ok {
		return !k.Shareable() || q.method != http.MethodGet
	}
	return q.method != http.MethodGet || looksLeased(q)
}

// Leases implements session.Session.
func (s *vaultSession) Leases(r *session.Request) bool {
	q := queryOf(r)
	if k, ok := s.kinds.Get(keyOf(s.login, q)); ok {
		return k == session.Leased
	}
	return looksLeased(q)
}

// looksLeased recognises <mount>/creds/<role>, which is how the engines of
// databases, clouds and brokers name what they lease.
func looksLeased(r *request) bool {
	elements := strings.Split(r.path, "/")
	n := len(elements)
	return n >= 3 && elements[n-2] == "creds" && !strings.Contains(r.path, "/data/")
}

// Batches implements session.Session: Vault answers one request at a time.
func (s *vaultSession) Batches(list []*session.Request) [][]*session.Request {
	return slices.Collect(slices.Chunk(list, 1))
}

// Warnings implements session.Session.
func (s *vaultSession) Warnings() []string { return nil }

func (s *vaultSession) inNamespace() string {
	if s.login.namespace == "" {
		return ""
	}
	return fmt.Sprintf(" in namespace %q", s.login.namespace)
}
