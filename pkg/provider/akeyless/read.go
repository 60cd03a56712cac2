package akeyless

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// maxBatch bounds the names in one request.
const maxBatch = 100

// session is the group's token: the one that is there, or that of a new login.
// A stale one is not taken. A token that is due to be replaced is still good
// while the store cannot give a new one.
func (f *fetch) session(ctx context.Context, stale *token) (*token, error) {
	if t := f.group.login.Current(f.now(), stale); t != nil && f.now().Before(t.due) {
		return t, nil
	}
	t, _, err := f.group.logins.Do(ctx, struct{}{}, f.now, time.Time{}, func() (*token, error) {
		old := f.group.login.Current(f.now(), stale)
		if old != nil && f.now().Before(old.due) {
			return old, nil
		}
		t, err := f.logIn(ctx, f.spec.login, f.bearer)
		switch {
		case err == nil:
			f.group.login.Adopt(t)
			return t, nil
		case old != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NoToken):
			f.config.Logger.Warn("the login could not be renewed, so the old one goes on", "pod", f.bearer.pod.String(), "error", err)
			return old, nil
		}
		return nil, err
	})
	return t, err
}

// ask makes a call with the group's token.
func (f *fetch) ask(ctx context.Context, k call) (*endpoint.Reply, error) {
	k.owner, k.endpoint, k.tenant = f.owner(), f.endpoint, f.bearer.pod.Namespace
	k.about = strings.Join([]string{k.path, k.about}, " ")
	current := func(stale *token) (*token, error) { return f.session(ctx, stale) }
	ask := func(t *token) (*endpoint.Reply, error) {
		k.body["token"], k.secrets = t.value.Reveal(), f.bearer.secrets(t)
		return f.do(ctx, k)
	}
	return session.AskTwice(f.now, current, ask, func(err error) bool { return errors.Is(err, errUnauthorized) })
}

// batches groups static secrets that one request can ask for.
func batches(items []*item) [][]*item {
	byVersion := map[int64][]*item{}
	var versions []int64
	for _, it := range items {
		if len(byVersion[it.version]) == 0 {
			versions = append(versions, it.version)
		}
		byVersion[it.version] = append(byVersion[it.version], it)
	}
	var out [][]*item
	for _, v := range versions {
		out = slices.AppendSeq(out, slices.Chunk(byVersion[v], maxBatch))
	}
	return out
}

// batch answers static secrets of one version.
func (f *fetch) batch(ctx context.Context, items []*item) {
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.flight
	}
	readings, _, err := f.group.reads.Do(ctx, strings.Join(ids, "\n\n"), f.now, f.since(), func() (map[string]*reading, error) {
		return f.texts(ctx, items)
	})
	for _, it := range items {
		f.settle(it, readings[it.id], err)
	}
}

// since is from when on an answer will do.
func (f *fetch) since() time.Time {
	if f.request.Fresh {
		return f.began
	}
	return time.Time{}
}

// settle turns a reading into the item's result.
func (f *fetch) settle(it *item, rd *reading, err error) {
	switch {
	case err != nil:
		err = explainRead(f, it, err)
	case rd == nil:
		err = fault.New(fault.Internal, "%s was not asked for", it)
	case rd.err != nil:
		err = rd.err
	case rd.Absent && !f.optional(it):
		err = explainRead(f, it, fault.New(fault.NotFound, "there is no such item"))
	}
	if err != nil {
		f.done(it, result{err: err})
		return
	}
	f.volume.readings.Keep(it.id, rd)
	f.done(it, f.result(rd))
}

// texts answers static secrets from what the group had lately, by their
// descriptions, or by reading.
func (f *fetch) texts(ctx context.Context, items []*item) (map[string]*reading, error) {
	out := make(map[string]*reading, len(items))
	var rest []*item
	for _, it := range items {
		if out[it.id] = f.fromGroup(it); out[it.id] == nil {
			rest = append(rest, it)
		}
	}
	if len(rest) <= describeAtMost {
		rest = f.withoutUnchanged(ctx, rest, out)
	}
	if len(rest) == 0 {
		return out, nil
	}
	read, err := f.readTexts(ctx, rest)
	if err != nil {
		if !itemsOwn(err) {
			return nil, err
		}
		read = f.oneByOne(ctx, rest, err)
	}
	for id, rd := range read {
		out[id] = rd
		if rd.err == nil {
			f.group.recent.Keep(id, rd)
		}
	}
	return out, nil
}

// itemsOwn tells whether a failure says something of the items rather than of
// the gateway or the caller.
func itemsOwn(err error) bool {
	switch fault.Of(err) {
	case fault.Denied, fault.NotFound, fault.Rejected:
		return true
	}
	return false
}

func (f *fetch) withoutUnchanged(ctx context.Context, items []*item, out map[string]*reading) []*item {
	var mu sync.Mutex
	var rest []*item
	session.InParallel(items, func(it *item) {
		rd := f.unchanged(ctx, it)
		mu.Lock()
		defer mu.Unlock()
		if out[it.id] = rd; rd == nil {
			rest = append(rest, it)
			return
		}
		f.group.recent.Keep(it.id, rd)
	})
	return rest
}

// readTexts reads static secrets in one request. What is missing in the
// answer is an error of its item alone.
func (f *fetch) readTexts(ctx context.Context, items []*item) (map[string]*reading, error) {
	names := make([]string, len(items))
	for i, it := range items {
		names[i] = it.name
	}
	body := map[string]any{"names": names}
	f.refine(body, items...)
	asked := f.now()
	r, err := f.ask(ctx, call{operation: endpoint.OpRead, path: "/get-secret-value", body: body, about: strings.Join(names, " "), reads: true})
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if err := checkObject(r, f.endpoint.Address); err != nil {
		return nil, err
	}
	if foreign(r.Body, names) {
		return nil, fault.New(fault.BadAnswer, "the answer of %s is JSON, but not Akeyless': it names no item", f.endpoint.Address).WithHint(hintForeign)
	}
	wanted := make(map[string]bool, 2*len(items))
	for _, it := range items {
		wanted[it.name], wanted[strings.TrimPrefix(it.name, "/")] = true, true
	}
	values := params.Select(r.Body, wanted)
	out := make(map[string]*reading, len(items))
	for _, it := range items {
		raw, ok := values[it.name]
		if !ok {
			raw, ok = values[strings.TrimPrefix(it.name, "/")]
		}
		v, err := f.keep(it, static, value{Body: raw}, r)
		if err != nil {
			return nil, err
		}
		out[it.id] = f.newReading(it, static, v, asked)
		switch {
		case !ok && f.optional(it) && len(values) > 0:
			out[it.id] = &reading{Kind: static, Absent: true, Asked: asked}
		case !ok:
			out[it.id].err = explainRead(f, it, fault.New(fault.NotFound, "the answer of %s does not hold it", f.endpoint.Address))
		case string(raw) == "null":
			out[it.id].err = explainRead(f, it, fault.New(fault.BadAnswer, "the answer of %s holds no value", f.endpoint.Address))
		}
	}
	return out, nil
}

// foreign tells whether an answer has a key that is no item's name, such as the
// maintenance page of a proxy.
func foreign(answer []byte, names []string) bool {
	return params.HasKey(answer, func(key string) bool {
		return !strings.HasPrefix(key, "/") && !slices.Contains(names, "/"+key) && !slices.Contains(names, key)
	})
}

// refine adds the version, and passes by the gateway's cache where a fresh
// answer is wanted, or where the item was described before: the description is
// not cached, and an older value taken for the one described would stay for
// good.
func (f *fetch) refine(body map[string]any, items ...*item) {
	if items[0].version != 0 {
		body["version"] = items[0].version
	}
	if f.request.Fresh || slices.ContainsFunc(items, f.wasDescribed) {
		body["ignore-cache"] = strconv.FormatBool(true)
	}
}

func (f *fetch) wasDescribed(it *item) bool {
	_, ok := f.notedOf(it)
	return ok
}

// oneByOne finds out which items of a batch made it fail, by asking for each.
func (f *fetch) oneByOne(ctx context.Context, items []*item, failure error) map[string]*reading {
	if len(items) == 1 {
		return map[string]*reading{items[0].id: f.failed(items[0], failure)}
	}
	var mu sync.Mutex
	out := make(map[string]*reading, len(items))
	session.InParallel(items, func(it *item) {
		one, err := f.readTexts(ctx, []*item{it})
		rd := one[it.id]
		if err != nil {
			rd = f.failed(it, err)
		}
		mu.Lock()
		defer mu.Unlock()
		out[it.id] = rd
	})
	return out
}

// failed is the reading of an item that could not be read.
func (f *fetch) failed(it *item, err error) *reading {
	if fault.Of(err) == fault.NotFound && f.optional(it) {
		return &reading{Kind: static, Absent: true, Asked: f.now()}
	}
	f.mistaken(it, err)
	return &reading{Kind: static, err: explainRead(f, it, err)}
}
