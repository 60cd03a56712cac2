// Package store makes requests to the servers of one Vault or OpenBao: to the one that answered
// last first, then to the others, all within the time of one call.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// maxAnswer bounds an answer in bytes. The answer for a key with thousands of versions is
	// smaller.
	maxAnswer = 256 << 10
	// minTry is the shortest time for one address, if there is as much.
	minTry = 250 * time.Millisecond

	headerRequest     = "X-Vault-Request"
	headerToken       = "X-Vault-Token" //nolint:gosec // the header's name
	headerNamespace   = "X-Vault-Namespace"
	headerCorrelation = "X-Correlation-ID"
)

// Meter counts requests. It must not block.
type Meter interface {
	// VaultRequest is one attempt at one address; err is nil for an answer with status 2xx.
	VaultRequest(operation string, err error, took time.Duration)
}

// Request is one request.
type Request struct {
	// Operation names it for errors and metrics, such as encrypt.
	Operation string
	Method    string
	// Path is below /v1/.
	Path string
	// Body is JSON. Do wipes it.
	Body []byte
	// Repeatable says that repeating the request does no harm, for example when a reused connection
	// turns out to be closed.
	Repeatable bool
	// Token is empty for requests without one.
	Token secret.String
	// Headers are added, such as those of an inline login.
	Headers map[string]secret.String
	// Correlation is the id in the store's audit log.
	Correlation string
	// Secrets must not appear in an error, even if the store's answer has them.
	Secrets []secret.String
}

// Answer is an answer with status 2xx.
type Answer struct {
	// Body may have secrets; call Wipe.
	Body []byte
	// Address is the server that answered.
	Address endpoint.Address
}

// Wipe overwrites the body.
func (a Answer) Wipe() { clear(a.Body) }

// Client makes requests to the servers of one Vault.
type Client struct {
	namespace string
	budget    time.Duration
	servers   []server
	meter     Meter
	// last is the index of the server that answered last.
	last atomic.Int32
}

// server is one address. Each has a pool of its own, since a pool uses the operator's client
// certificate only for the operator's server.
type server struct {
	target endpoint.Target
	pool   *endpoint.Pool
}

// names are the settings of TLS for people.
func names() endpoint.Names {
	return endpoint.Names{
		CACertFile: "--vault-ca-cert", CACertDir: "--vault-ca-path", CACert: "--vault-ca-cert", ServerName: "--vault-tls-server-name",
		ClientCertFile: "--vault-client-cert", ClientKeyFile: "--vault-client-key", Program: "plugin",
	}
}

// New makes a client. Each call ends within the budget. It opens no connection and no file.
func New(c config.Vault, budget time.Duration, meter Meter, log *slog.Logger) (*Client, error) {
	files, err := endpoint.NewFiles(nil)
	if err != nil {
		return nil, err
	}
	client := &Client{namespace: c.Namespace, budget: budget, meter: meter}
	for _, a := range c.Addresses {
		target := endpoint.Target{Address: a, TLS: c.TLS}
		client.servers = append(client.servers, server{target, &endpoint.Pool{Logger: log, Names: names(), Files: files, Operator: endpoint.Operator{Target: target}, AllowLocal: true}})
	}
	return client, nil
}

// Do tries one address after the other until one gives an answer that another one would give too.
// Its error has a reason.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.budget, errNoAnswer)
	defer cancel()
	b := &body{data: r.Body}
	defer b.wipe()
	first := int(c.last.Load())
	var failures []error
	for n := range c.servers {
		at := (first + n) % len(c.servers)
		answer, err := c.try(ctx, r, b, c.servers[at], len(c.servers)-n)
		switch {
		case err == nil:
			c.last.Store(int32(at)) //nolint:gosec // there are few addresses
			return answer, nil
		case !elsewhere(err):
			c.last.Store(int32(at)) //nolint:gosec // there are few addresses
			return Answer{}, err
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return Answer{}, fault.Join(failures)
}

// try makes the request to one address, and leaves time for the next ones.
func (c *Client) try(ctx context.Context, r Request, b *body, s server, left int) (Answer, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		rest := time.Until(deadline)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, min(max(rest/time.Duration(left), minTry), rest), errNoAnswer)
		defer cancel()
	}
	began := time.Now()
	answer, err := c.exchange(ctx, r, b, s)
	c.meter.VaultRequest(r.Operation, err, time.Since(began))
	return answer, err
}

func (c *Client) exchange(ctx context.Context, r Request, b *body, s server) (Answer, error) {
	a := s.target.Address
	e, err := s.pool.Get(ctx, s.target, time.Now())
	if err != nil {
		return Answer{}, err
	}
	request, err := c.request(ctx, r, b, a)
	if err != nil {
		return Answer{}, err
	}
	response, err := e.Transport().RoundTrip(request)
	if err != nil {
		return Answer{}, c.explain(ctx, e, r, err)
	}
	defer func() { _ = response.Body.Close() }()
	endpoint.Bound(response, maxAnswer)
	body, err := endpoint.ReadBody(response, nil)
	switch {
	case errors.Is(err, endpoint.ErrTooLarge):
		return Answer{}, fault.New(fault.BadAnswer, "the answer of %s is larger than %d bytes", a, maxAnswer).WithHint("is this the address of a Vault server?")
	case err != nil:
		return Answer{}, c.explain(ctx, e, r, err)
	case response.StatusCode >= http.StatusMultipleChoices:
		return Answer{}, classify(r, a, response, body)
	}
	return Answer{Body: body, Address: a}, nil
}

func (c *Client) request(ctx context.Context, r Request, b *body, a endpoint.Address) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, r.Method, a.URL("/v1/"+r.Path).String(), nil)
	if err != nil {
		return nil, fault.New(fault.Internal, "making the request for %s: the path cannot be written as a URL", r.Operation)
	}
	h := request.Header
	if r.Body != nil {
		request.Body, _ = b.reader()
		request.GetBody, request.ContentLength = b.reader, int64(len(r.Body))
	}
	if r.Repeatable {
		h["X-Idempotency-Key"] = nil // net/http asks again, and does not send it
	}
	h.Set(headerRequest, "true")
	h.Set("User-Agent", "mayfly-kms")
	if r.Body != nil {
		h.Set("Content-Type", "application/json")
	}
	if c.namespace != "" {
		h.Set(headerNamespace, c.namespace)
	}
	if !r.Token.Empty() {
		h.Set(headerToken, r.Token.Reveal())
	}
	if r.Correlation != "" {
		h.Set(headerCorrelation, r.Correlation)
	}
	for name, value := range r.Headers {
		h.Set(name, value.Reveal())
	}
	return request, nil
}

// Decode decodes an answer into a value. Its error quotes nothing of the answer.
func (a Answer) Decode(into any) error {
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fault.New(fault.BadAnswer, "the answer of %s is not Vault's JSON (%d bytes)", a.Address, len(a.Body)).WithHint("is this the address of a Vault server, or of a proxy before it?")
	}
	return nil
}
