package akeyless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/parallel"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// kindKey identifies an item. The kind that describe-item returned is remembered for all
// identities, because Akeyless still checks the rights of each read.
type kindKey struct {
	target endpoint.Target
	access string
	name   string
}

func keyOf(l login, name string) kindKey { return kindKey{l.Target, l.AccessID, name} }

// describedKey identifies an item and the identity that describes it.
type describedKey struct {
	session.Identity
	name string
}

// factOpaque is the prefix of the facts about items that an identity may read but not
// describe.
const factOpaque = "opaque "

// description is the answer of describe-item.
type description struct {
	Type         string      `json:"item_type"`
	LastVersion  json.Number `json:"last_version"`
	Modified     string      `json:"modification_date"`
	LastRotation string      `json:"last_rotation_date"`
	NextRotation string      `json:"next_rotation_date"`
}

// knownItems is what the provider knows of items from their descriptions.
type knownItems struct {
	kinds     bounded.Map[kindKey, kind]
	described singleflight.Group[describedKey, *description]
}

// descriptions has the known descriptions of one run.
type descriptions struct {
	conn  *conn
	known *knownItems

	mu sync.Mutex
	// noted has the descriptions that were requested before a read.
	noted map[*item]description
}

func newDescriptions(c *conn, known *knownItems) *descriptions {
	return &descriptions{conn: c, known: known, noted: map[*item]description{}}
}

// revision identifies the version of an item.
func (d description) revision() session.Revision {
	if n, err := d.LastVersion.Int64(); err != nil || n <= 0 {
		return session.Revision{}
	}
	return session.Revision{Number: d.LastVersion.String(), Changed: d.Modified, Rotated: d.LastRotation}
}

// next returns the announced rotation, zero for none.
func (d description) next() time.Time {
	at, err := time.Parse(time.RFC3339, d.NextRotation)
	if err != nil {
		return time.Time{}
	}
	return at
}

// describe requests an item's description.
func (c *conn) describe(ctx context.Context, name string) (description, error) {
	var d description
	err := c.look(ctx, "/describe-item", map[string]any{"name": name}, &d)
	if err == nil && d.Type == "" {
		err = notAkeyless(c.Address(), "describes no item")
	}
	return d, err
}

// Prepare implements session.Preparer: it finds out the kinds of items for which the class
// has none. If the identity may not describe an item, Prepare assumes a static secret, and
// the read finds out.
func (s *akeylessSession) Prepare(ctx context.Context, list []*session.Request) map[*session.Request]error {
	var mu sync.Mutex
	failed := map[*session.Request]error{}
	var unknown []*session.Request
	for _, r := range list {
		if it := itemOf(r); !s.items.isKnown(it) && !s.conn.Caller.Facts().Has(factOpaque+it.name) {
			unknown = append(unknown, r)
		}
	}
	parallel.Each(unknown, func(r *session.Request) {
		if err := s.items.detect(ctx, itemOf(r)); err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed[r] = err
		}
	})
	return failed
}

func (d *descriptions) detect(ctx context.Context, it *item) error {
	found, _, err := d.known.described.Do(ctx, describedKey{d.conn.Caller.Identity(), it.name}, d.conn.Now, time.Time{}, func() (*description, error) {
		one, err := d.conn.describe(ctx, it.name)
		return &one, err
	})
	switch reason := fault.Of(err); {
	case err == nil:
		return d.learn(it, *found)
	case !singleflight.IsOwn(err) && (reason == fault.Denied || reason == fault.NotFound || reason == fault.Rejected):
		d.conn.Caller.Facts().Set(factOpaque+it.name, struct{}{})
		return nil
	}
	return d.explain(it, err)
}

// learn remembers an item's kind from its description.
func (d *descriptions) learn(it *item, is description) error {
	k, ok := kindOf(is.Type)
	if !ok || k == detected {
		return fault.New(fault.InvalidClass, "%s is a %s, which holds nothing that can be mounted", it, is.Type)
	}
	d.known.kinds.Set(keyOf(d.conn.login, it.name), k)
	d.note(it, is)
	return nil
}

// retyped describes an item that could not be read as the kind that the class has, because
// secretType is a hint. If the item is of another kind, it must be read again as that. It
// returns nil if the description does not help.
func (d *descriptions) retyped(ctx context.Context, it *item, tried kind) error {
	opaque := factOpaque + it.name
	if it.kind == detected || tried != it.kind || d.conn.Caller.Facts().Has(opaque) {
		return nil
	}
	is, err := d.conn.describe(ctx, it.name)
	if err != nil {
		d.conn.Caller.Facts().Set(opaque, struct{}{}) // the error of the read is better
		return nil
	}
	if err := d.learn(it, is); err != nil {
		return err
	}
	if d.kindOf(it) == tried {
		return nil
	}
	return session.ErrAgain
}

// misfit returns the error for an item of another kind, if the class uses fields that only
// the expected kind has.
func (d *descriptions) misfit(it *item) error {
	k := d.kindOf(it)
	if it.kind == detected || k == it.kind || len(it.args) == 0 && (it.version == 0 || !k.issues()) {
		return nil
	}
	return fault.New(fault.InvalidClass, "%s is of type %s: set its secretType to that, and its secretArgs and secretVersion to what fits", it, k)
}

// mistaken forgets a detected kind that may be the reason of a failure, for example if the
// item was replaced by one of another type.
func (d *descriptions) mistaken(it *item, err error) {
	if !isMistake(err) {
		return
	}
	d.known.kinds.Forget(keyOf(d.conn.login, it.name))
	if it.kind == detected {
		d.conn.Caller.Facts().Forget(factOpaque + it.name)
	}
}

// isMistake reports whether a wrong kind may be the reason of a failure.
func isMistake(err error) bool {
	switch fault.Of(err) {
	case fault.NotFound, fault.Rejected, fault.BadAnswer:
		return err != nil && !singleflight.IsOwn(err)
	}
	return false
}

// Warnings implements session.Session: it warns of secretTypes that differ from the
// store's.
func (s *akeylessSession) Warnings() (warnings []string) {
	for _, o := range s.conn.Caller.Objects() {
		it := itemOf(o.Request)
		if k := s.items.kindOf(it); it.kind != detected && k != it.kind {
			warnings = append(warnings, fmt.Sprintf("%s: secretType is %s, and the item is of type %s, so it is read as that", o, it.kind, k))
		}
	}
	return warnings
}

// kindOf returns the kind of the item's description, or else that of the class.
func (d *descriptions) kindOf(it *item) kind {
	if k, ok := d.known.kinds.Get(keyOf(d.conn.login, it.name)); ok {
		return k
	}
	if it.kind == detected {
		return static
	}
	return it.kind
}

func (d *descriptions) isKnown(it *item) bool {
	return it.kind != detected || d.known.kinds.Has(keyOf(d.conn.login, it.name))
}

// note keeps a description for the next read.
func (d *descriptions) note(it *item, is description) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noted[it] = is
}

func (d *descriptions) notedOf(it *item) (description, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	is, ok := d.noted[it]
	return is, ok
}

// Unchanged implements session.Checker: it describes an item that was read not too long
// ago, and returns the earlier answer with new times if the item has not changed.
// Otherwise it keeps the description for the read that follows.
func (s *akeylessSession) Unchanged(ctx context.Context, r *session.Request, before *session.Reading) *session.Reading {
	it, opaque := itemOf(r), factOpaque+itemOf(r).name
	if it.version != 0 || s.conn.Caller.Facts().Has(opaque) {
		return nil
	}
	asked := s.conn.Caller.Began
	d, noted := s.items.notedOf(it)
	if !noted {
		asked = s.conn.Now()
		var err error
		if d, err = s.conn.describe(ctx, it.name); err != nil {
			if reason := fault.Of(err); !singleflight.IsOwn(err) && (reason == fault.Denied || reason == fault.NotFound) {
				s.conn.Caller.Facts().Set(opaque, struct{}{})
			}
			return nil // the read finds out
		}
		s.items.note(it, d)
	}
	was := before.Answer.Revision
	if !was.Known() || was != d.revision() || !session.VersionWillDo(before.Read, s.conn.Caller.Began) {
		return nil
	}
	again := before.Again(asked, s.conn.Now(), before.Token, s.conn.Caller.Correlation)
	rotates(again, d)
	return again
}

// rotates records the next rotation, which a stored certificate does not have.
func rotates(rd *session.Reading, d description) {
	switch next := d.next(); {
	case kind(rd.Answer.Type) == certificate:
	case next.After(rd.Asked):
		rd.Kind, rd.End, rd.Due = session.Static, next, session.AfterChange(rd.Asked, next, 0)
	default:
		rd.Kind, rd.End, rd.Due = session.Polled, time.Time{}, time.Time{}
	}
}

// Restored implements session.Store: it remembers the kind of the item again.
func (p *Provider) Restored(l session.Login, id string, is session.Kind, a *session.Answer) error {
	k := kind(a.Type)
	switch {
	case a.Part == nil && !json.Valid(a.Body):
		return errors.New("it is no JSON")
	case k.issues() == is.Shareable():
		return errors.New("it is of another type than it was read as")
	}
	if parts := strings.SplitN(id, "\n", 4); l != nil && len(parts) == 4 {
		p.known.kinds.Set(keyOf(loginOf(l), parts[1]), k)
	}
	return nil
}

// explain adds to an error what was attempted, and a hint, except to the error of a login,
// which has both.
func (d *descriptions) explain(it *item, err error) error {
	if err == nil || singleflight.IsOwn(err) {
		return err
	}
	out := fault.Wrap(fault.Of(err), err, "reading %s", it)
	if fault.Hint(err) != "" {
		return out
	}
	switch out.Reason {
	case fault.Denied:
		return out.WithHint("a role of access ID %q must allow read on the item, to this service account if it goes by claims", d.conn.login.AccessID)
	case fault.NotFound:
		return out.WithHint("there is no such item, or the role does not let the pod know of it")
	case fault.Rejected:
		return out.WithHint("%s", typeHint(it))
	}
	return out
}

func typeHint(it *item) string {
	if it.kind == detected {
		return "set the object's secretType if the item is not a static secret"
	}
	return fmt.Sprintf("is the item really of type %s?", it.kind)
}
