package volume

import (
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// maxClass bounds what a class says to its provider, in bytes. It is kept for as
// long as a volume was made by it.
const maxClass = 1 << 20

func checkClassSize(c *class.Class) error {
	size := 0
	for k, v := range c.Parameters {
		size += len(k) + len(v)
	}
	if size <= maxClass {
		return nil
	}
	return fault.New(fault.InvalidClass, "spec.parameters are %d bytes, more than %d", size, maxClass).
		WithHint("take out what the provider does not use, or make several classes of it")
}

// checkCeilings refuses a class that asks for more than the operator allows. A
// volume that is live goes on within the ceiling.
func (p *Publisher) checkCeilings(c *class.Class) error {
	switch {
	case p.MaxSizeLimit > 0 && c.SizeLimit > p.MaxSizeLimit:
		return fault.New(fault.NotAllowed, "spec.parameters.%s is %d bytes, more than the %d that the operator allows", class.SizeLimitKey, c.SizeLimit, p.MaxSizeLimit).
			WithHint("ask for less, or have the operator raise %s", setting.Name("--max-volume-size-limit"))
	case p.MaxInodeLimit > 0 && c.InodeLimit > p.MaxInodeLimit:
		return fault.New(fault.NotAllowed, "spec.parameters.%s is %d, more than the %d that the operator allows", class.InodeLimitKey, c.InodeLimit, p.MaxInodeLimit).
			WithHint("ask for less, or have the operator raise %s", setting.Name("--max-volume-inode-limit"))
	}
	return nil
}

// withFloor gives a class that asks for a shorter interval than the operator
// allows the shortest that is allowed: a refusal would stop the refreshes of
// volumes that run.
func (p *Publisher) withFloor(c *class.Class) (_ *class.Class, warning string) {
	if c.RefreshInterval == 0 || c.RefreshInterval >= p.MinInterval {
		return c, ""
	}
	raised := *c
	raised.RefreshInterval = p.MinInterval
	return &raised, fmt.Sprintf("spec.parameters.%s is %s, less than the operator allows: %s is used: %s", class.RefreshIntervalKey, c.RefreshInterval, p.MinInterval, setting.Name("--min-refresh-interval"))
}
