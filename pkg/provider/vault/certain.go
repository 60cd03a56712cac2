package vault

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// What is certain enough to take files from a running pod is decided here.
// Vault's and OpenBao's standbys answer reads, and learn of tokens, policies,
// mounts and writes a little later than the active server.

// certain is the result of a request of a live volume. A refused read counts
// as a denial once the server knows the Vault token and refuses the read all
// the same, or where the refusal is repeated some seconds later. Until then it
// is Unverified. A login that is refused with the store's reason is certain
// by itself: only the active server takes logins.
func (f *fetch) certain(ctx context.Context, r *request, res result) result {
	if res.err == nil {
		f.volume.doubts.Answered(r.id)
		return res
	}
	if !deniedRead(res.err) || singleflight.IsOwn(res.err) || len(f.request.Current) == 0 {
		return res
	}
	if f.tokenIsKnown(ctx, r) {
		// The server may have learned of it after it refused.
		if again := f.obtainOnce(ctx, r); again.err == nil || deniedRead(again.err) {
			return again
		}
	}
	if wait := f.volume.doubts.Refused(r.id, f.now()); wait > 0 {
		res.err = session.Unverified(res.err, wait)
	}
	return res
}

// tokenIsKnown tells whether the server knows the token that the request was
// made with, which the default policy allows to ask.
func (f *fetch) tokenIsKnown(ctx context.Context, r *request) bool {
	g, now := f.volume.currentGroup(), f.now()
	t := g.login.Current(now, nil)
	if f.leases(r) {
		t = f.holder().parent(now)
	}
	if t == nil || t.limited() {
		return false
	}
	known, _, err := g.lookups.Do(ctx, t, f.now, time.Time{}, func() (bool, error) {
		reply, err := f.client.do(ctx, f.call(t, http.MethodGet, "auth/token/lookup-self", nil, nil))
		if err != nil {
			return false, nil
		}
		defer reply.Release()
		return isOwnAnswer("auth/token/lookup-self", reply.Body), nil
	})
	return known && err == nil
}

// wordsUnmounted are in Vault's answer for a path at which nothing is mounted.
const wordsUnmounted = "no handler for route"

// unmounted is the error for such a path. That is a mistake of an operator, or a
// standby that does not know the mount yet, and not the end of a secret.
type unmounted struct{ error }

func (u unmounted) Unwrap() error { return u.error }

func isUnmounted(err error) bool {
	var u unmounted
	return errors.As(err, &u)
}

// unlessLive lets an optional object be missing, whose engine is not mounted,
// where no file of the volume has it.
func (f *fetch) unlessLive(r *request, res result) result {
	if !isUnmounted(res.err) || !f.optional(r) {
		return res
	}
	for _, o := range f.spec.objects {
		if o.request == r && slices.ContainsFunc(f.request.Current, o.isVersion) {
			return res
		}
	}
	rd := absent(f.now(), nil)
	return result{reading: rd, due: f.dueOf(r, rd)}
}

// errOutdated is in the error of a read that gave an older version.
var errOutdated = errors.New("the answer is older than what this node read before")

// outdated is the error for an answer that is older than one that was had
// before: an older version of a KV v2 secret, created earlier. A deleted
// version does not bring back the one before it, and a secret that was made
// again counts from 1, but later.
func (f *fetch) outdated(r *request, rd *reading) error {
	if r.query.Get("version") != "" && r.query.Get("version") != "0" {
		return nil // the class wants it
	}
	for _, known := range []*session.Answers[*reading]{f.volume.answers(), f.volume.currentGroup().recent} {
		before := known.Held(r.id)
		if before == nil || before.absent || !rd.answer.kv.olderThan(before.answer.kv) {
			continue
		}
		err := fault.New(fault.Unavailable, "reading %s%s from %s: version %s, after version %s: %w",
			r, f.inNamespace(), f.spec.login.target.Address, rd.answer.kv.number, before.answer.kv.number, errOutdated).
			WithHint("a standby is behind the active server; where the store was restored from a backup, write the secret again")
		err.RetryAfter = session.SureAfter
		return err
	}
	return nil
}

// olderThan tells whether v is an earlier state of the same secret.
func (v kvVersion) olderThan(o kvVersion) bool {
	n, err := strconv.ParseInt(v.number, 10, 64)
	m, oerr := strconv.ParseInt(o.number, 10, 64)
	if err != nil || oerr != nil || n >= m {
		return false
	}
	at, err := time.Parse(time.RFC3339Nano, v.created)
	before, oerr := time.Parse(time.RFC3339Nano, o.created)
	return err == nil && oerr == nil && !at.After(before)
}
