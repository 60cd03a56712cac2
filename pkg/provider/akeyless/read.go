package akeyless

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/parallel"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// maxBatch bounds the names in one request.
const maxBatch = 100

// Issues implements session.Session.
func (s *akeylessSession) Issues(r *session.Request) bool { return s.items.kindOf(itemOf(r)).issues() }

// Leases implements session.Session: no credential ends with a token.
func (s *akeylessSession) Leases(*session.Request) bool { return false }

// Batches implements session.Session: static secrets of one version are read in
// one request, the others one by one.
func (s *akeylessSession) Batches(list []*session.Request) (out [][]*session.Request) {
	byVersion := map[int64][]*session.Request{}
	var versions []int64
	for _, r := range list {
		it := itemOf(r)
		if s.items.kindOf(it) != static {
			out = append(out, []*session.Request{r})
			continue
		}
		if len(byVersion[it.version]) == 0 {
			versions = append(versions, it.version)
		}
		byVersion[it.version] = append(byVersion[it.version], r)
	}
	for _, v := range versions {
		out = slices.AppendSeq(out, slices.Chunk(byVersion[v], maxBatch))
	}
	return out
}

// Read implements session.Session.
//
//  1. Refuse an item with fields that its kind does not have.
//  2. Read static secrets in one request. If that fails for what may be one item only,
//     read each by itself.
//  3. If an item cannot be read as the kind of the class, describe it, and read it again
//     if it is of another kind.
func (s *akeylessSession) Read(ctx context.Context, tokens session.Tokens, batch []*session.Request) (map[*session.Request]session.Read, error) {
	out := make(map[*session.Request]session.Read, len(batch))
	tried := map[*session.Request]kind{}
	var rest []*session.Request
	for _, r := range batch {
		tried[r] = s.items.kindOf(itemOf(r))
		if err := s.items.misfit(itemOf(r)); err != nil {
			out[r] = session.Read{Err: err}
			continue
		}
		rest = append(rest, r)
	}
	if len(rest) == 0 {
		return out, nil
	}
	var got map[*session.Request]session.Read
	var err error
	if len(rest) == 1 && tried[rest[0]] != static {
		got, err = s.single(ctx, tokens, rest[0], tried[rest[0]])
	} else {
		got, err = s.texts(ctx, tokens, rest)
	}
	if err != nil {
		return nil, s.items.explain(itemOf(rest[0]), err)
	}
	var mu sync.Mutex
	parallel.Each(rest, func(r *session.Request) {
		one := s.finish(ctx, r, got[r], tried[r])
		mu.Lock()
		defer mu.Unlock()
		out[r] = one
	})
	return out, nil
}

// finish explains a failure, and finds out whether the item was read as the wrong kind.
func (s *akeylessSession) finish(ctx context.Context, r *session.Request, one session.Read, tried kind) session.Read {
	it := itemOf(r)
	if one.Err == nil && !one.Absent || one.Err != nil && !isMistake(one.Err) {
		return session.Read{Reading: one.Reading, Err: s.items.explain(it, one.Err)}
	}
	s.items.mistaken(it, one.Err)
	if err := s.items.retyped(ctx, it, tried); err != nil {
		return session.Read{Err: err}
	}
	if one.Err != nil && fault.Of(one.Err) == fault.NotFound && s.conn.Caller.Optional(r) {
		return session.Read{Reading: session.Absent(s.conn.Now(), nil)}
	}
	return session.Read{Reading: one.Reading, Err: s.items.explain(it, one.Err)}
}

// texts reads static secrets.
func (s *akeylessSession) texts(ctx context.Context, tokens session.Tokens, list []*session.Request) (map[*session.Request]session.Read, error) {
	got, err := s.readTexts(ctx, tokens, list)
	if err == nil || !itemsOwn(err) {
		return got, err
	}
	if len(list) == 1 {
		return map[*session.Request]session.Read{list[0]: {Err: err}}, nil
	}
	var mu sync.Mutex
	got = make(map[*session.Request]session.Read, len(list))
	parallel.Each(list, func(r *session.Request) {
		one, err := s.readTexts(ctx, tokens, []*session.Request{r})
		read := one[r]
		if err != nil {
			read = session.Read{Err: err}
		}
		mu.Lock()
		defer mu.Unlock()
		got[r] = read
	})
	return got, nil
}

// itemsOwn reports whether a failure concerns the items and not the gateway or the caller.
func itemsOwn(err error) bool {
	switch fault.Of(err) {
	case fault.Denied, fault.NotFound, fault.Rejected:
		return !singleflight.IsOwn(err)
	}
	return false
}

// readTexts reads static secrets in one request. An item that the answer lacks has an
// error of its own.
func (s *akeylessSession) readTexts(ctx context.Context, tokens session.Tokens, list []*session.Request) (map[*session.Request]session.Read, error) {
	names := make([]string, len(list))
	wanted := make(map[string]bool, 2*len(list))
	for i, r := range list {
		names[i] = itemOf(r).name
		wanted[names[i]], wanted[strings.TrimPrefix(names[i], "/")] = true, true
	}
	body := map[string]any{"names": names}
	s.refine(body, list...)
	asked := s.conn.Now()
	reply, err := s.conn.read(ctx, tokens, "/get-secret-value", strings.Join(names, " "), body)
	if err != nil {
		return nil, err
	}
	defer reply.Release()
	if err := s.conn.checkObject(reply); err != nil {
		return nil, err
	}
	if foreign(reply.Body, names) {
		return nil, notAkeyless(s.conn.Address(), "is JSON, but not Akeyless': it names no item")
	}
	values := params.Select(reply.Body, wanted)
	out := make(map[*session.Request]session.Read, len(list))
	for _, r := range list {
		name := itemOf(r).name
		raw, ok := values[name]
		if !ok {
			raw, ok = values[strings.TrimPrefix(name, "/")]
		}
		switch {
		case !ok && s.conn.Caller.Optional(r) && len(values) > 0:
			out[r] = session.Read{Reading: session.Absent(asked, nil)}
		case !ok:
			out[r] = session.Read{Err: fault.New(fault.NotFound, "the answer of %s does not hold it", s.conn.Address())}
		case string(raw) == "null":
			out[r] = session.Read{Err: fault.New(fault.BadAnswer, "the answer of %s holds no value", s.conn.Address())}
		default:
			rd, err := s.reading(r, static, raw, asked, reply)
			if err != nil {
				return nil, err
			}
			out[r] = session.Read{Reading: rd}
		}
	}
	return out, nil
}

// foreign reports whether an answer has a key that is no item's name, such as the
// maintenance page of a proxy.
func foreign(answer []byte, names []string) bool {
	return params.HasKey(answer, func(key string) bool {
		return !strings.HasPrefix(key, "/") && !slices.Contains(names, "/"+key) && !slices.Contains(names, key)
	})
}

// refine adds the version. It bypasses the gateway's cache if a fresh answer is wanted, or
// if the item was described before: descriptions are not cached, so an older cached value
// would be taken for the described version and stay.
func (s *akeylessSession) refine(body map[string]any, list ...*session.Request) {
	if version := itemOf(list[0]).version; version != 0 {
		body["version"] = version
	}
	described := func(r *session.Request) bool {
		_, ok := s.items.notedOf(itemOf(r))
		return ok
	}
	if s.conn.Caller.Fresh || slices.ContainsFunc(list, described) {
		body["ignore-cache"] = strconv.FormatBool(true)
	}
}

// single reads a rotated secret or a stored certificate.
func (s *akeylessSession) single(ctx context.Context, tokens session.Tokens, r *session.Request, k kind) (map[*session.Request]session.Read, error) {
	rd, err := s.readSingle(ctx, tokens, r, k)
	if err != nil && !isMistake(err) {
		return nil, err
	}
	return map[*session.Request]session.Read{r: {Reading: rd, Err: err}}, nil
}

func (s *akeylessSession) readSingle(ctx context.Context, tokens session.Tokens, r *session.Request, k kind) (*session.Reading, error) {
	it := itemOf(r)
	path, body := "/get-certificate-value", map[string]any{"name": it.name}
	if k == rotated {
		path, body = "/get-rotated-secret-value", map[string]any{"names": it.name, "json": true}
		if host := it.args[argHost]; host != "" {
			body["host"] = host
		}
	}
	s.refine(body, r)
	asked := s.conn.Now()
	reply, err := s.conn.read(ctx, tokens, path, it.name, body)
	if err != nil {
		return nil, err
	}
	defer reply.Release()
	if err := s.conn.checkObject(reply); err != nil {
		return nil, err
	}
	if k != rotated {
		return s.certificateReading(r, reply, asked)
	}
	raw := params.Member(reply.Body, "value")
	if len(raw) == 0 || string(raw) == "null" {
		return nil, fault.New(fault.BadAnswer, "the answer of %s holds no value", s.conn.Address())
	}
	return s.reading(r, rotated, raw, asked, reply)
}

func (s *akeylessSession) certificateReading(r *session.Request, reply *endpoint.Reply, asked time.Time) (*session.Reading, error) {
	var stored struct {
		PEM string `json:"certificate_pem"`
	}
	end, err := time.Time{}, error(nil)
	if err = json.Unmarshal(reply.Body, &stored); err == nil {
		end, err = notAfter(stored.PEM)
	}
	if err != nil {
		return nil, fault.New(fault.BadAnswer, "the answer of %s holds no certificate: %w", s.conn.Address(), err)
	}
	rd, err := s.reading(r, certificate, reply.Body, asked, reply)
	if err == nil {
		rd.End = end
	}
	return rd, err
}

// reading joins an answer with the description that was noted before the request.
func (s *akeylessSession) reading(r *session.Request, k kind, raw []byte, asked time.Time, reply *endpoint.Reply) (*session.Reading, error) {
	keys, whole := s.conn.Caller.Keys(r, session.Polled)
	a, err := keep(k, raw, keys, whole, session.Room(reply))
	if err != nil {
		return nil, err
	}
	rd := &session.Reading{Answer: a, Asked: asked, Read: asked, At: s.conn.Now(), Correlation: s.conn.Caller.Correlation}
	if d, ok := s.items.notedOf(itemOf(r)); ok {
		a.Revision = d.revision()
		rotates(rd, d)
	}
	return rd, nil
}
