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
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// protocol is the version that this package speaks.
const protocol = "v1alpha1"

// Provider has the process behind one name fetch payloads. It holds nothing
// for a volume, so there is nothing to release.
type Provider struct {
	name     string
	registry *Registry
}

// errTimeout tells our own limit from the caller's.
var errTimeout = errors.New("the provider did not answer in time")

// Fetch has the provider return the files, or write them to a place of its own.
func (p *Provider) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	c := call{provider: p.name, request: &r, scrub: scrubber{&r}, limits: &p.registry.c}
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
	return c.judge(answer)
}

// answer calls a provider that is known to return files as it is, and any
// other one with a place to write to.
func (p *Provider) answer(ctx context.Context, c *call, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	if c.request.Stager == nil {
		return p.twice(ctx, c, m)
	}
	if !p.registry.returnsFiles(p.name) {
		return p.staged(ctx, c, m)
	}
	answer, err := p.twice(ctx, c, m)
	if err == nil && wroteItself(answer) { // after all, and where nobody looks
		return p.staged(ctx, c, m)
	}
	return answer, err
}

// twice calls the provider's Mount once, and once more where there is a reason
// to think that it then goes well.
func (p *Provider) twice(ctx context.Context, c *call, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	answer, err := p.mount(ctx, c, m)
	if err != nil && ctx.Err() == nil && p.worthAnother(c, m, err) {
		answer, err = p.mount(ctx, c, m)
	}
	return answer, err
}

// worthAnother tells whether a second call may do better than the first: the
// provider started anew under the first; or it compared versions and wanted
// the unchanged objects from the files in the volume, which it cannot see. The
// AWS provider says nothing of files then, but only, without a code, that it
// could not get the object. The second call asks for all of them.
func (p *Provider) worthAnother(c *call, m *v1alpha1.MountRequest, err error) bool {
	if status.Code(err) == codes.Unavailable {
		return p.restarted(c.at)
	}
	if len(m.CurrentObjectVersion) > 0 && status.Code(err) == codes.Unknown {
		m.CurrentObjectVersion = nil
		return true
	}
	return false
}

// mount makes one call. Its error is a fault, or what gRPC gave.
func (p *Provider) mount(ctx context.Context, c *call, m *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	l, err := p.registry.take(p.name)
	if err != nil {
		return nil, err
	}
	defer p.registry.give(l)
	c.at = l.socket
	tenant := c.request.Pod.Namespace
	if err := l.slots.Acquire(ctx, tenant); err != nil {
		return nil, c.fault(fault.Of(err), "waiting for one of its %d running calls to end: %w", l.slots.PerKey(), err)
	}
	defer l.slots.Release(tenant)
	if !l.pulse.check(ctx, &p.registry.c, l.ask) {
		return nil, c.hung(ctx)
	}
	called, span := trace.Request(correlate(ctx), "plugin")
	answer, err := l.receive(trace.ToGRPC(called), m, p.registry.reading, c.charge)
	span.End(err)
	if full := (*fault.Error)(nil); errors.As(err, &full) {
		err = c.fault(full.Reason, "taking in its answer: %w", err)
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		settle(ctx)
	case codes.Unavailable:
		p.registry.doubt(l)
	}
	switch ctx.Err() {
	case nil:
		l.pulse.found()
	case context.DeadlineExceeded:
		l.pulse.lost()
	}
	return answer, err
}

// headerCorrelation has our id of the call, for the provider's own log.
const headerCorrelation = "x-correlation-id"

// correlate sends the id as metadata of the call, since there are providers that
// refuse attributes that they do not know.
func correlate(ctx context.Context) context.Context {
	id := provider.Correlation(ctx)
	if id == "" {
		return ctx
	}
	provider.Asked(ctx, id)
	return metadata.AppendToOutgoingContext(ctx, headerCorrelation, id)
}

// settle lets a deadline that is about to pass do so. The provider knows it,
// and its clock may be a little ahead of ours.
func settle(ctx context.Context) {
	const ahead = 100 * time.Millisecond
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < ahead {
		<-ctx.Done()
	}
}

// restarted tells whether another process serves the name than the one that
// was called.
func (p *Provider) restarted(called socket) bool {
	now, err := p.registry.c.find(p.name)
	return err == nil && now != called
}
