package session

import (
	"context"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// Conn sends the requests of one run to the addresses of the caller's login.
type Conn struct {
	*endpoint.Settings
	Caller *Caller
	client *endpoint.Client
	pair   endpoint.Pair
}

// NewConn connects a caller to the first address of a store, and to the second if it is not
// zero. It sends no request.
func NewConn(ctx context.Context, c *Caller, client *endpoint.Client, first, second endpoint.Target) (Conn, error) {
	pair, err := client.Pool.GetPair(ctx, first, second, client.Settings.Now())
	return Conn{client.Settings, c, client, pair}, err
}

// Address returns the first address, for errors.
func (c *Conn) Address() endpoint.Address { return c.pair.First.Address }

// Call returns the call of an operation. The caller's volume is charged for the answer.
func (c *Conn) Call(o endpoint.Operation) endpoint.Call {
	return endpoint.Call{Pair: c.pair, Operation: o, Caller: endpoint.Caller{Tenant: c.Caller.Pod.Namespace}, Owner: c.Caller.Owner()}
}

// Do makes a call at the first address, or at the second while the first is unavailable,
// and records which one answered.
func (c *Conn) Do(ctx context.Context, k endpoint.Call) (*endpoint.Reply, error) {
	reply, err := c.client.Do(ctx, k)
	if k.Pair.Second == nil {
		return reply, err
	}
	second := ""
	if reply != nil && reply.From == k.Pair.Second.Address {
		second = reply.From.String()
	}
	if c.Caller.noteAnswer(second) {
		c.logAnswer(second, err)
	}
	return reply, err
}

// End makes a call that ends something at the address where that began; see
// endpoint.Client.End.
func (c *Conn) End(ctx context.Context, began endpoint.Address, k endpoint.Call) error {
	_, err := c.client.End(ctx, began, k)
	return err
}

// logAnswer logs that another address answers than before.
func (c *Conn) logAnswer(second string, err error) {
	log := c.Logger.With(logkey.Address, c.Address().String(), logkey.Pod, c.Caller.Pod.String())
	switch {
	case second != "":
		log.Warn("the first address of a store is away, and its second answers", logkey.AnsweredBy, second)
	case err == nil:
		log.Info("the first address of a store answers again")
	}
}

// Room reports whether there is memory for so many more bytes during an answer.
func Room(from *endpoint.Reply) func(int64) error {
	before := from.Charge.Bytes()
	return func(n int64) error {
		if before+n <= from.Charge.Bytes() {
			return nil
		}
		return from.Charge.Resize(before + n)
	}
}
