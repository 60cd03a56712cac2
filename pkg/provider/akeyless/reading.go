package akeyless

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// reading is what the store said of one item, and when. It is never changed,
// so volumes share it. Its JSON is part of the state that is kept.
type reading struct {
	Kind kind
	value
	Asked time.Time
	// Read is the same of the last request for the value itself.
	Read   time.Time
	Absent bool `json:",omitempty"`
	// Mark is the item's state as described before the value was read, so the
	// value is never older than it says. It is zero where it is not known.
	Mark mark `json:",omitzero"`
	// Next is the announced rotation.
	Next time.Time `json:",omitzero"`
	// Ends is the end of a certificate.
	Ends time.Time `json:",omitzero"`

	// correlation is the id that the request went under; empty for an earlier
	// process'.
	correlation string
	err         error // of this item, where others were asked for with it
}

// AskedAt implements session.Reading.
func (rd *reading) AskedAt() time.Time { return rd.Asked }

// Size implements session.Reading.
func (rd *reading) Size() int64 { return rd.size() }

// answers tells whether the reading is one for what the objects take.
func (rd *reading) answers(it *item) bool { return rd != nil && (rd.Absent || rd.has(it.keys)) }

// mark tells two states of an item apart.
type mark struct {
	Version  int64
	Modified string
	Rotated  string
}

func (m mark) known() bool { return m.Version > 0 && m.Modified != "" }

// description is what describe-item says.
type description struct {
	Type         string      `json:"item_type"`
	LastVersion  json.Number `json:"last_version"`
	Modified     string      `json:"modification_date"`
	LastRotation string      `json:"last_rotation_date"`
	NextRotation string      `json:"next_rotation_date"`
}

func (d description) mark() mark {
	n, err := d.LastVersion.Int64()
	if err != nil {
		return mark{}
	}
	return mark{n, d.Modified, d.LastRotation}
}

// next is the announced rotation, zero if there is none.
func (d description) next() time.Time {
	at, err := time.Parse(time.RFC3339, d.NextRotation)
	if err != nil {
		return time.Time{}
	}
	return at
}

// describe asks for an item's description.
func (f *fetch) describe(ctx context.Context, name string) (description, error) {
	var d description
	r, err := f.ask(ctx, call{operation: endpoint.OpCheck, path: "/describe-item", body: map[string]any{"name": name}})
	if err == nil {
		defer r.Release()
		err = decode(r, f.endpoint.Address, &d)
	}
	if err == nil && d.Type == "" {
		err = fault.New(fault.BadAnswer, "the answer of %s describes no item", f.endpoint.Address).WithHint(hintForeign)
	}
	return d, err
}

// detect finds out an item's kind where the class does not say. Where the
// identity may not describe the item, it is taken for a static secret: the
// read tells more.
func (f *fetch) detect(ctx context.Context, it *item) error {
	if _, ok := f.knownKind(it); ok || f.group.opaque.Has(it.name) {
		return nil
	}
	found, _, err := f.group.described.Do(ctx, it.name, f.now, time.Time{}, func() (*description, error) {
		d, err := f.describe(ctx, it.name)
		return &d, err
	})
	switch reason := fault.Of(err); {
	case err == nil:
	case reason == fault.Denied, reason == fault.NotFound, reason == fault.Rejected:
		f.group.opaque.Set(it.name, struct{}{})
		return nil
	default:
		return explainRead(f, it, err)
	}
	return f.learn(it, *found)
}

// learn takes an item's kind from its description.
func (f *fetch) learn(it *item, d description) error {
	k, ok := kindOf(d.Type)
	if !ok || k == detected {
		return fault.New(fault.InvalidClass, "%s is a %s, which holds nothing that can be mounted", it, d.Type)
	}
	f.kinds.Set(keyOf(f.spec.login, it.name), k)
	f.note(it, d)
	return nil
}

// mistyped gives the items that could not be answered as the kind that was
// tried, and that their description says to be of another kind: secretType is a
// hint.
func (f *fetch) mistyped(ctx context.Context, items []*item, tried map[*item]kind) []*item {
	var list []*item
	for _, it := range items {
		if r := f.results[it]; it.kind != detected && tried[it] == it.kind && (r.absent || isMistake(r.err)) && !f.group.opaque.Has(it.name) {
			list = append(list, it)
		}
	}
	session.InParallel(list, func(it *item) {
		d, err := f.describe(ctx, it.name)
		if err != nil {
			f.group.opaque.Set(it.name, struct{}{}) // the failure of the read says more
			return
		}
		if err := f.learn(it, d); err != nil {
			f.done(it, result{err: err})
		}
	})
	list = slices.DeleteFunc(list, func(it *item) bool { return f.kindOf(it) == tried[it] })
	for _, it := range list {
		delete(f.results, it)
	}
	return list
}

// misfit is the error of an item that is of another kind than the class says,
// and asked for with what only that kind has.
func (f *fetch) misfit(it *item) error {
	k := f.kindOf(it)
	if it.kind == detected || k == it.kind || len(it.args) == 0 && (it.version == 0 || !k.mints()) {
		return nil
	}
	return fault.New(fault.InvalidClass, "%s is of type %s: set its secretType to that, and its secretArgs and secretVersion to what fits", it, k)
}

// hints are warnings of secretTypes that are not what the store says.
func (f *fetch) hints() (warnings []string) {
	for _, o := range f.spec.objects {
		if k := f.kindOf(o.item); o.item.kind != detected && k != o.item.kind {
			warnings = append(warnings, fmt.Sprintf("%s: secretType is %s, and the item is of type %s, so it is read as that", o, o.item.kind, k))
		}
	}
	return warnings
}

func (f *fetch) kindOf(it *item) kind {
	if k, ok := f.knownKind(it); ok {
		return k
	}
	return static
}

// knownKind is what was made of the item before, what its description said, or
// what the class says.
func (f *fetch) knownKind(it *item) (kind, bool) {
	if m := f.holder().get(it.id); m != nil {
		return m.Kind, true
	}
	if k, ok := f.kinds.Get(keyOf(f.spec.login, it.name)); ok {
		return k, true
	}
	return it.kind, it.kind != detected
}

// note keeps a description for the read that follows it.
func (f *fetch) note(it *item, d description) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noted == nil {
		f.noted = map[*item]description{}
	}
	f.noted[it] = d
}

func (f *fetch) notedOf(it *item) (description, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.noted[it]
	return d, ok
}

// describeAtMost is how many static secrets are described one by one. More of
// them are read anew instead, which takes one request for all.
const describeAtMost = 4

// unchanged has the store describe an item that was read before, and gives the
// earlier reading with a new date if nothing happened to the item, and it was
// itself read not too long ago. Otherwise the description is noted for the read
// that must follow.
func (f *fetch) unchanged(ctx context.Context, it *item) *reading {
	before := f.before(it)
	if before == nil || before.Absent || it.version != 0 || f.request.Fresh || f.group.opaque.Has(it.name) {
		return nil
	}
	asked := f.began
	d, noted := f.notedOf(it)
	var err error
	if !noted {
		asked = f.now()
		d, err = f.describe(ctx, it.name)
	}
	if err != nil {
		if reason := fault.Of(err); reason == fault.Denied || reason == fault.NotFound {
			f.group.opaque.Set(it.name, struct{}{})
		}
		return nil // the read tells more
	}
	f.note(it, d)
	if !before.Mark.known() || before.Mark != d.mark() || !session.VersionWillDo(before.Read, f.began) {
		return nil
	}
	again := *before
	again.Asked, again.Next = asked, d.next()
	return &again
}

// before is the newest reading that the volume or its group has.
func (f *fetch) before(it *item) *reading {
	own, shared := f.volume.readings.Last(it.id), f.group.recent.Last(it.id)
	switch {
	case !own.answers(it) && !shared.answers(it):
		return nil
	case !own.answers(it), shared.answers(it) && shared.Asked.After(own.Asked):
		return shared
	}
	return own
}

// fromGroup is an answer that another volume of the group had lately.
func (f *fetch) fromGroup(it *item) *reading {
	rd := f.group.recent.Last(it.id)
	switch {
	case !rd.answers(it), rd.Absent && !f.optional(it):
		return nil
	case f.request.Fresh:
		if !rd.Asked.After(f.began) {
			return nil
		}
	case !session.GoodForOthers(rd.Asked, f.due(rd), f.now()):
		return nil
	}
	return rd
}

// newReading joins an answer with what was noted before it was asked for.
func (f *fetch) newReading(it *item, k kind, v value, asked time.Time) *reading {
	rd := &reading{Kind: k, value: v, Asked: asked, Read: asked, correlation: f.correlation}
	if d, ok := f.notedOf(it); ok {
		rd.Mark, rd.Next = d.mark(), d.next()
	}
	return rd
}
