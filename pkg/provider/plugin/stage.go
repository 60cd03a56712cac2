package plugin

import (
	"context"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// wroteItself reports whether a provider wrote the files below the target path and returned none.
// The first providers did that, and the AWS provider does it by default.
func wroteItself(m *v1alpha1.MountResponse) bool {
	return m.GetError().GetCode() == "" && len(m.GetFiles()) == 0 && len(m.GetObjectVersion()) > 0
}

// returnsFiles reports whether the process that serves the name now has returned files before. A
// new process may write its files itself, and then to any path that it is given.
func (r *Registry) returnsFiles(name string) bool {
	now, err := r.c.find(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	return err == nil && r.returning[name] == now
}

func (r *Registry) learn(name string, s socket) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.returning[name] = s
}

// staged calls a provider with the path of an empty stage in memory, which it always removes at the
// end. It reads back the files that the provider wrote there, as if the provider had returned them.
// The request has no current versions, because the stage has no files that belong to them.
func (p *Provider) staged(ctx context.Context, c *call, m *v1alpha1.MountRequest) (answer *v1alpha1.MountResponse, err error) {
	stage, err := c.request.Stager.Stage()
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := stage.Close(); cerr != nil && err == nil {
			answer, err = nil, c.fault(fault.Mount, "taking away the place that it wrote to: %w", cerr)
		}
	}()
	answer, err = p.mountTwice(ctx, c, &v1alpha1.MountRequest{
		Attributes: m.GetAttributes(), Secrets: m.GetSecrets(), Permission: m.GetPermission(), TargetPath: stage.Path(),
	})
	if err != nil {
		return nil, err
	}
	if !wroteItself(answer) {
		if len(answer.GetFiles()) > 0 {
			p.registry.learn(p.name, c.at)
		}
		return answer, nil
	}
	return answer, c.collect(stage, answer)
}

// collect adds the files of the stage to the answer.
func (c *call) collect(stage provider.Stage, answer *v1alpha1.MountResponse) error {
	files, err := stage.Files(maxParts, int64(c.limits.MaxMessageBytes))
	if err != nil {
		return c.fault(fault.BadAnswer, "reading the files that it wrote: %s", c.scrub(err.Error()))
	}
	size := c.charge.Bytes()
	for _, f := range files {
		size += int64(f.Contents.Len())
	}
	if err := c.charge.Resize(size); err != nil {
		return c.fault(fault.Of(err), "reading the files that it wrote: %w", err)
	}
	for _, f := range files {
		answer.Files = append(answer.Files, &v1alpha1.File{Path: f.Path, Mode: int32(f.Mode), Contents: f.Contents.Reveal()})
	}
	return nil
}
