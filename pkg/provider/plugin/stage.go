package plugin

import (
	"context"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// wroteItself tells whether a provider put the files below the target path and
// returned none, which is what providers did at first, and the AWS provider
// does unless it is told otherwise.
func wroteItself(m *v1alpha1.MountResponse) bool {
	return m.GetError().GetCode() == "" && len(m.GetFiles()) == 0 && len(m.GetObjectVersion()) > 0
}

// returnsFiles tells whether the process that serves the name now has returned
// files before. Of one that is new nothing is known: it may write its files
// itself, and then to whatever path it is given.
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

// staged calls a provider with the path of an empty place in memory that is
// taken away in the end, whatever happens. What the provider writes there is
// read back and takes the place of the files that it would have returned. It is
// given no current versions: there are no files to go with them.
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
	answer, err = p.twice(ctx, c, &v1alpha1.MountRequest{
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

// collect makes the answer one that returns the files.
func (c *call) collect(stage provider.Stage, answer *v1alpha1.MountResponse) error {
	files, err := stage.Files(maxParts, int64(c.limits.MaxMessageBytes))
	if err != nil {
		return c.fault(fault.BadAnswer, "reading the files that it wrote: %s", c.scrub.text(err.Error()))
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
