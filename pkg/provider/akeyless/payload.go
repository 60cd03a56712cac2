package akeyless

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// payload makes the files: all of them, or an error.
func (f *fetch) payload() (*provider.Payload, error) {
	out := &provider.Payload{Warnings: slices.Clone(f.spec.warnings), RefreshAt: f.horizon()}
	values := make(map[*item]any, len(f.results))
	for _, it := range f.spec.items {
		res := f.results[it]
		out.RefreshAt = session.Earliest(out.RefreshAt, res.due)
		if res.absent {
			continue
		}
		var v any
		if err := params.Decode(res.body, &v); err != nil {
			return nil, fmt.Errorf("%s: %w", f.names(it), fault.New(fault.BadAnswer, "the value of %s cannot be decoded", it))
		}
		values[it] = v
	}
	for _, o := range f.spec.objects {
		res := f.results[o.item]
		if res.absent {
			continue
		}
		contents, err := o.contents(res.kind, values[o.item])
		if err != nil && o.optional && fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		f.add(out, o, res, contents)
	}
	return out, nil
}

func (f *fetch) add(out *provider.Payload, o *object, res result, contents []byte) {
	version := f.keyed(o.item.id, o.key, string(o.encoding), string(contents))
	if o.item.version != 0 {
		version = fmt.Sprintf("%d-%s", o.item.version, version)
	}
	out.Files = append(out.Files, provider.File{Path: o.file, Mode: o.mode, Contents: secret.NewBytes(contents)})
	out.Versions = append(out.Versions, provider.Version{ID: o.file, Version: version})
	if !res.ends.IsZero() {
		out.Leases = append(out.Leases, provider.Lease{Object: o.file, ID: res.id, Expires: res.ends})
	}
}

// horizon is when to look again so that there is always a way to end what the
// volume holds: before both the Akeyless token and the pod's service account
// token are over, kubelet has passed a new one of the latter. Zero where
// nothing needs it.
func (f *fetch) horizon() time.Time {
	now := f.now()
	if f.config.DisableRevocation || !(f.volume.holder.holds(now) || f.group.holder.holds(now)) {
		return time.Time{}
	}
	until := f.bearer.until(f.spec.login)
	if until.IsZero() {
		return time.Time{}
	}
	if t := f.group.login.Current(now, nil); t != nil && t.expires.After(until) {
		until = t.expires
	}
	due := session.TwoThirds(now, until, f.config.Jitter())
	if least := now.Add(leastHorizon); due.Before(least) {
		return least
	}
	return due
}

// contents are what the object's file holds of an item's value.
func (o *object) contents(k kind, value any) ([]byte, error) {
	if o.key == "" {
		return o.encode(value)
	}
	v, ok := lookUp(k, value, o.key)
	if !ok {
		return nil, fault.New(fault.NotFound, "%s has no key %q%s", o.item, o.key, keysOf(k, value))
	}
	return o.encode(v)
}

func (o *object) encode(value any) ([]byte, error) {
	out, err := o.encoding.File(value)
	if err == nil {
		return out, nil
	}
	what := "the value"
	if o.key != "" {
		what = fmt.Sprintf("the value of %q", o.key)
	}
	return nil, fault.New(fault.InvalidClass, "spec.parameters.objects[%d].encoding: %s of %s is not %s: %w", o.index, what, o.item, o.encoding, err)
}

// lookUp finds a key in a value. What is written as text may be JSON all the
// same, and rotated secrets keep theirs a level down on some types.
func lookUp(k kind, value any, key string) (any, bool) {
	for _, m := range levels(k, value) {
		if v, ok := params.LookUp(m, key); ok {
			return v, true
		}
	}
	return nil, false
}

// levels are where to look for keys, the value itself first.
func levels(k kind, value any) []map[string]any {
	var list []map[string]any
	m := asMap(value)
	if m == nil {
		return nil
	}
	list = append(list, m)
	if k != rotated {
		return list
	}
	for _, inner := range []string{"payload", "target_value"} {
		if deeper := asMap(m[inner]); deeper != nil {
			list = append(list, deeper)
		}
	}
	return list
}

func asMap(value any) map[string]any {
	switch v := value.(type) {
	case map[string]any:
		return v
	case string:
		var m map[string]any
		if strings.HasPrefix(strings.TrimSpace(v), "{") && params.Decode([]byte(v), &m) == nil {
			return m
		}
	}
	return nil
}

func keysOf(k kind, value any) string {
	var all []string
	for _, m := range levels(k, value) {
		all = append(all, params.KeysOf(m))
	}
	if len(all) == 0 {
		return ": it is no JSON object"
	}
	return "; it has " + strings.Join(all, ", and inside ")
}
