package plugin

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// protocol is the version of the protocol that this package implements.
const protocol = "v1alpha1"

// Provider fetches payloads from the process behind one name. It has no state for a volume, so
// there is nothing to release.
type Provider struct {
	name     string
	registry *Registry
}

// errTimeout distinguishes this package's own limit from the caller's.
var errTimeout = errors.New("the provider did not answer in time")

// Fetch lets the provider return the files, or write them to a stage.
func (p *Provider) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	c := call{provider: p.name, request: &r, limits: &p.registry.c}
	message, err := p.registry.c.newRequest(p.name, r)
	if err != nil {
		return nil, c.fault(fault.Internal, "preparing the request: %w", err)
	}
	owner := budget.Owner{Namespace: r.Pod.Namespace, Volume: r.Volume}
	if c.charge, err = p.registry.c.Budget.Acquire(owner, budget.Answers, 0); err != nil {
		return nil, c.fault(fault.Of(err), "%w", err)
	}
	defer c.charge.Release()
	bounded, cancel := context.WithTimeoutCause(ctx, p.registry.c.Timeout, errTimeout)
	defer cancel()
	answer, err := p.answer(bounded, &c, message)
	if err != nil {
		return nil, c.failed(bounded, err)
	}
	return c.payload(answer)
}

// answer calls a provider that is known to return files without a stage, and any other one with a
// stage to write to.
func (p *Provider) answer(ctx context.Context, c *call, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	if c.request.Stager == nil {
		return p.mountTwice(ctx, c, m)
	}
	if !p.registry.returnsFiles(p.name) {
		return p.staged(ctx, c, m)
	}
	answer, err := p.mountTwice(ctx, c, m)
	if err == nil && wroteItself(answer) { // to the target path, which nobody reads
		return p.staged(ctx, c, m)
	}
	return answer, err
}

// mountTwice calls the provider's Mount, and calls it once more if there is a reason to expect success
// then.
func (p *Provider) mountTwice(ctx context.Context, c *call, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	answer, err := p.mount(ctx, c, m)
	if err != nil && ctx.Err() == nil && p.worthRetry(c, m, err) {
		answer, err = p.mount(ctx, c, m)
	}
	return answer, err
}

// worthRetry reports whether a second call may succeed after the first: the provider restarted
// during the first call; or it compared versions and looked for the unchanged objects among the
// files of the volume, which it cannot see. In that case the AWS provider only says, without a
// code, that it could not get the object. The second call asks for all objects.
func (p *Provider) worthRetry(c *call, m *v1alpha1.MountRequest, err error) bool {
	if status.Code(err) == codes.Unavailable {
		now, missing := p.registry.c.find(p.name)
		return missing == nil && now != c.at // another process serves the name
	}
	if len(m.CurrentObjectVersion) > 0 && status.Code(err) == codes.Unknown {
		m.CurrentObjectVersion = nil
		return true
	}
	return false
}

// mount makes one call. Its error is a fault or a gRPC error.
func (p *Provider) mount(ctx context.Context, c *call, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	l, err := p.registry.acquire(p.name)
	if err != nil {
		return nil, err
	}
	defer p.registry.release(l, true)
	c.at = l.socket
	tenant := c.request.Pod.Namespace
	if err := l.slots.Acquire(ctx, tenant); err != nil {
		return nil, c.fault(fault.Of(err), "waiting for one of its %d running calls to end: %w", l.slots.PerKey(), err)
	}
	defer l.slots.Release(tenant)
	if !l.liveness.check(ctx, &p.registry.c, l.ask) {
		return nil, c.hung(ctx)
	}
	id := provider.Correlation(ctx)
	called, span := trace.Request(correlate(ctx, id), "plugin")
	span.Exchange(trace.Exchange{Correlation: id})
	began := time.Now()
	answer, err := l.receive(trace.ToGRPC(called), m, p.registry.reading, c.charge)
	span.End(err)
	p.registry.c.Logger.Debug("called the provider plugin", logkey.Provider, p.name, logkey.Volume, c.request.Volume, logkey.Pod, c.request.Pod.String(),
		logkey.Class, c.request.Class.String(), logkey.Correlation, id, logkey.Took, time.Since(began), logkey.Code, status.Code(err).String())
	if full, ok := errors.AsType[*fault.Error](err); ok {
		err = c.fault(full.Reason, "taking in its answer: %w", err)
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		awaitDeadline(ctx)
	case codes.Unavailable:
		p.registry.markFailed(l)
	}
	switch ctx.Err() {
	case nil:
		l.liveness.set(false, time.Time{})
	case context.DeadlineExceeded:
		l.liveness.set(true, time.Time{})
	}
	return answer, err
}

// headerCorrelation is the header with the id of the call, for the provider's own log.
const headerCorrelation = "x-correlation-id"

// correlate sends the id as metadata of the call, since some providers refuse
// attributes that they do not know.
func correlate(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	provider.Asked(ctx, id)
	return metadata.AppendToOutgoingContext(ctx, headerCorrelation, id)
}

// awaitDeadline waits for a deadline that is about to pass. The provider knows the deadline, and its
// clock may be a little ahead.
func awaitDeadline(ctx context.Context) {
	const ahead = 100 * time.Millisecond
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < ahead {
		<-ctx.Done()
	}
}
