package volume

import (
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Renderer makes more files from a provider's payload, as a class asks.
type Renderer interface {
	// Prepare checks a class of a volume, without a payload.
	Prepare(volume string, c *class.Class) (r Rendering, warnings []string, err error)
	// Leave ends what is kept for a volume that is gone.
	Leave(volume string)
}

// Rendering makes the files of one version of a class.
type Rendering = interface {
	// Render returns a copy of a payload with those files, none of more than limit
	// bytes. It charges the owner for the memory that it needs meanwhile.
	Render(p *provider.Payload, limit int64, o budget.Owner) (*provider.Payload, error)
}
