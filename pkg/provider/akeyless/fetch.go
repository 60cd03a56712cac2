package akeyless

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// leastHorizon keeps a volume whose means to log in run out from being looked
// at without a pause.
const leastHorizon = time.Minute

// fetch is one run over one volume.
type fetch struct {
	*Provider
	request  provider.Request
	spec     *spec
	volume   *volume
	group    *group
	bearer   bearer
	endpoint *endpoint.Endpoint
	began    time.Time
	// correlation is what the requests go under.
	correlation string

	mu      sync.Mutex
	results map[*item]result
	// noted are descriptions that were had before a read.
	noted map[*item]description
}

// result is the answer to one item, and when to look again.
type result struct {
	kind   kind
	value  value
	due    time.Time
	ends   time.Time // of a credential or certificate; zero for what has no end
	id     string    // of a credential
	absent bool      // the store has nothing there, and the class does not mind
	err    error
	// correlation is the id of the request that brought it; empty for none.
	correlation string
}

func (f *fetch) run(ctx context.Context) (*provider.Payload, error) {
	if err := f.join(); err != nil {
		return nil, err
	}
	if !f.request.Upkeep {
		f.forget()
	}
	f.results, f.correlation = map[*item]result{}, provider.Correlation(ctx)
	err := f.obtain(ctx)
	if err != nil {
		f.refused(session.Everything, err)
	} else {
		err = f.failure()
	}
	f.config.Logger.Debug("fetched", "volume", f.request.Volume, "pod", f.request.Pod.String(), "class", f.spec.class.String(),
		"address", f.endpoint.Address.String(), "items", len(f.spec.items), "error", err)
	if err != nil && !f.fallBack() {
		return nil, err
	}
	for _, r := range f.results {
		provider.Asked(ctx, r.correlation) // another volume's, where it is shared
	}
	p, broken := f.payload()
	if broken != nil {
		return nil, errors.Join(err, broken)
	}
	p.Partial = err
	f.giveUpOthers()
	return p, nil
}

// join puts the volume into the group of its identity. A volume that is in
// one already needs no valid service account token, until it has to log in.
func (f *fetch) join() error {
	f.bearer = bearer{pod: f.request.Pod, tokens: f.request.Tokens, given: f.given()}
	old, before := f.volume.identity()
	if f.spec.login.Type.asPod() {
		if _, err := f.request.Tokens.For(f.spec.login.Audience, f.began); err != nil {
			if old == nil || old.key.Login != f.spec.login || before.pod != f.request.Pod {
				return err
			}
			f.group, f.bearer = old, before
			return nil
		}
	}
	key := f.identify(f.spec.login, f.bearer)
	if old != nil && old.key != key {
		f.change(key)
	}
	f.group = f.groups.join(key, f.volume.id)
	f.volume.setIdentity(f.group, f.bearer)
	return nil
}

// given is the credential that comes from a Secret or, less privately, from
// the class.
func (f *fetch) given() secret.String {
	key := f.spec.login.Type.secretKey()
	if key == "" {
		return secret.String{}
	}
	if s := f.request.Secrets[key]; !s.Empty() {
		return s
	}
	return f.spec.given
}

// obtain answers every item, whatever fails with others. Its error is one
// that concerns all.
func (f *fetch) obtain(ctx context.Context) error {
	pending := f.pending()
	if len(pending) == 0 {
		return nil
	}
	// One login for all, so that a denied one is tried, and told of, once.
	if _, err := f.session(ctx, nil); err != nil {
		return err
	}
	f.answer(ctx, f.detectAll(ctx, pending))
	return nil
}

// answer answers items whose kinds are known: first what can be read, then what
// is made. Those whose kind proves to be another one are answered once more.
func (f *fetch) answer(ctx context.Context, items []*item) {
	for len(items) > 0 {
		tried := make(map[*item]kind, len(items))
		var read, made []*item
		for _, it := range items {
			tried[it] = f.kindOf(it)
			err := f.misfit(it)
			switch {
			case err != nil:
				f.done(it, result{err: err})
			case tried[it].mints():
				made = append(made, it)
			default:
				read = append(read, it)
			}
		}
		f.readAll(ctx, read, tried)
		if items = f.mistyped(ctx, read, tried); len(items) > 0 {
			items = append(items, made...)
			continue
		}
		if f.mustFail() {
			return // a credential would be made in vain, at every try
		}
		session.InParallel(made, func(it *item) { f.done(it, f.credential(ctx, it, tried[it])) })
		items = f.mistyped(ctx, made, tried)
	}
}

func (f *fetch) readAll(ctx context.Context, items []*item, kinds map[*item]kind) {
	var work []func()
	var texts []*item
	for _, it := range items {
		if kinds[it] == static {
			texts = append(texts, it)
			continue
		}
		work = append(work, func() { f.single(ctx, it, kinds[it]) })
	}
	for _, batch := range batches(texts) {
		work = append(work, func() { f.batch(ctx, batch) })
	}
	session.InParallel(work, func(do func()) { do() })
	f.oneAtATime(ctx)
}

// mustFail tells whether an item has failed for which nothing stands in, so that
// there is no payload whatever else is answered.
func (f *fetch) mustFail() bool {
	return slices.ContainsFunc(f.spec.items, func(it *item) bool {
		if f.results[it].err == nil {
			return false
		}
		_, ok := f.lastGood(it)
		return !ok
	})
}

// oneAtATime asks again, by itself, for what did not fit the memory beside the
// others. A credential is not asked for again: the store may have made it.
func (f *fetch) oneAtATime(ctx context.Context) {
	for _, it := range f.spec.items {
		k := f.kindOf(it)
		switch {
		case fault.Of(f.results[it].err) != fault.Exhausted, k.mints():
		case k == static:
			f.batch(ctx, []*item{it})
		default:
			f.single(ctx, it, k)
		}
	}
}

// owner is who is charged for what is read for the volume.
func (f *fetch) owner() budget.Owner {
	return budget.Owner{Namespace: f.request.Pod.Namespace, Volume: f.request.Volume}
}

// keep takes from a value what this class's objects want, and what others had
// of the last one.
func (f *fetch) keep(it *item, k kind, v value, from *endpoint.Reply) (value, error) {
	whole, last := keptWhole, (*params.Part)(nil)
	if k.mints() {
		whole = heldWhole
		if m := f.holder().get(it.id); m != nil {
			last = m.Part
		}
	} else if rd := f.group.recent.Held(it.id); rd != nil {
		last = rd.Part
	}
	before := from.Charge.Bytes()
	return v.keep(k, params.Union(it.keys, last), whole, func(n int64) error {
		if before+n <= from.Charge.Bytes() {
			return nil
		}
		return from.Charge.Resize(before + n)
	})
}

// pending are the items that what the volume has will not do for.
func (f *fetch) pending() []*item {
	var list []*item
	for _, it := range f.spec.items {
		if m := f.holder().get(it.id); m != nil && m.has(it.keys) && !f.refusedHeld(m) && !m.isDue(f.began) {
			f.done(it, resultOf(m))
			continue
		}
		rd := f.volume.readings.Last(it.id)
		if rd.answers(it) && !f.request.Fresh && (!rd.Absent || f.optional(it)) && session.GoodForOwn(rd.Asked, f.due(rd), f.began) {
			f.done(it, f.result(rd))
			continue
		}
		list = append(list, it)
	}
	return list
}

// detectAll gives the items whose kind is known, in the order of the class, so
// that pods of one class ask alike.
func (f *fetch) detectAll(ctx context.Context, items []*item) []*item {
	var unknown []*item
	for _, it := range items {
		if _, ok := f.knownKind(it); !ok {
			unknown = append(unknown, it)
		}
	}
	session.InParallel(unknown, func(it *item) {
		if err := f.detect(ctx, it); err != nil {
			f.done(it, result{err: err})
		}
	})
	return slices.DeleteFunc(items, func(it *item) bool { return f.results[it].err != nil })
}

func (f *fetch) done(it *item, r result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.results[it] = r
}

// due is when a reading is to be had anew.
func (f *fetch) due(rd *reading) time.Time {
	due := rd.Asked.Add(f.spec.interval)
	if rd.Next.After(rd.Asked) {
		due = session.Earliest(due, session.AfterChange(rd.Asked, rd.Next, 0))
	}
	return due
}

func (f *fetch) result(rd *reading) result {
	return result{kind: rd.Kind, value: rd.value, due: f.due(rd), ends: rd.Ends, absent: rd.Absent, correlation: rd.correlation}
}

// holder is whose a credential would be.
func (f *fetch) holder() *holder {
	if f.spec.scope == class.ScopeServiceAccount {
		return f.group.holder
	}
	return f.volume.holder
}

// names are the objects that an item is asked for.
func (f *fetch) names(it *item) string {
	i := slices.IndexFunc(f.spec.objects, func(o *object) bool { return o.item == it })
	return f.spec.objects[i].String()
}

// optional tells whether all that the item is asked for may be missing.
func (f *fetch) optional(it *item) bool {
	return !slices.ContainsFunc(f.spec.objects, func(o *object) bool { return o.item == it && !o.optional })
}

// failure is one error of all that failed.
func (f *fetch) failure() error {
	var failed []error
	var canceled error
	for _, it := range f.spec.items {
		switch err := f.certain(it); {
		case err == nil:
		case fault.Of(err) == fault.Canceled:
			canceled = err
		default:
			f.refused(it.id, err)
			failed = append(failed, fmt.Errorf("%s: %w", f.names(it), err))
		}
	}
	if len(failed) == 0 {
		return canceled
	}
	return fault.Join(failed)
}
