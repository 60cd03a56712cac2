package status

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
)

// gone is the state of a volume that is no longer there.
const gone = "Gone"

// identity identifies a volume from one list to the next.
type identity struct{ namespace, pod, class, node string }

// follow prints all volumes, and then those that change, until ctx ends. It prints a finding when
// it is new.
func (c *command) follow(ctx context.Context, l *volumes.Lister) error {
	var before map[identity]volumes.Volume
	told := map[finding.Finding]bool{}
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		r := &finding.Report{}
		list := c.list(ctx, l, r)
		if ctx.Err() != nil {
			return nil
		}
		changed, now := changes(before, list.Volumes)
		if err := c.printChanges(changed, before == nil); err != nil {
			return fmt.Errorf("writing the volumes: %w", err)
		}
		if err := c.printNew(r, told); err != nil {
			return err
		}
		before = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// changes are the volumes that are new, changed or gone.
func changes(before map[identity]volumes.Volume, list []volumes.Volume) (changed []volumes.Volume, now map[identity]volumes.Volume) {
	now = map[identity]volumes.Volume{}
	for _, v := range list {
		id := identity{v.Namespace, v.Pod, v.Class, v.Node}
		now[id] = v
		if old, known := before[id]; !known || !same(old, v) {
			changed = append(changed, v)
		}
	}
	for id, v := range before {
		if _, there := now[id]; !there {
			v.State = gone
			changed = append(changed, v)
		}
	}
	return changed, now
}

// same compares what a person would see change, except for the passing of time.
func same(a, b volumes.Volume) bool {
	a.NextAt, b.NextAt = time.Time{}, time.Time{}
	a.Refreshing, b.Refreshing = false, false
	return reflect.DeepEqual(a, b)
}

func (c *command) printChanges(list []volumes.Volume, first bool) error {
	if c.output.Format == output.JSON { // one on each line
		e := json.NewEncoder(c.streams.Out)
		e.SetEscapeHTML(false)
		for _, v := range list {
			if err := e.Encode(v); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 && !first {
		return nil
	}
	t := &table{columns: c.columns(), now: c.streams.Time()}
	return t.write(c.streams.Out, list, first)
}

// printNew prints the new findings. They do not make a command fail that the user ends.
func (c *command) printNew(r *finding.Report, told map[finding.Finding]bool) error {
	fresh := &finding.Report{Objects: r.Objects}
	for _, f := range r.Findings {
		if !told[f] {
			told[f] = true
			fresh.Findings = append(fresh.Findings, f)
		}
	}
	if err := c.output.Aside(fresh, c.streams); err != nil && err != output.ErrFindings { //nolint:errorlint // it is never wrapped
		return err
	}
	return nil
}
