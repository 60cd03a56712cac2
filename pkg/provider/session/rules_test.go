package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return epoch.Add(d) }

func TestDueAt(t *testing.T) {
	const slack = 2 * time.Second // after an announced change
	for _, tc := range []struct {
		name     string
		kind     Kind
		life     time.Duration
		interval time.Duration
		chance   float64
		want     time.Duration
	}{
		{"polled", Polled, 0, time.Minute, 0.9, time.Minute},
		{"lease at two thirds", Leased, time.Hour, time.Minute, 0, 40 * time.Minute},
		{"lease, earlier by chance", Leased, time.Hour, time.Minute, 1, 40*time.Minute - 288*time.Second},
		{"short lease", Leased, 3 * time.Second, time.Minute, 1, 1760 * time.Millisecond},
		{"lease of a second", Leased, time.Second, time.Minute, 1, 586666667},
		{"lease that says nothing", Leased, 0, time.Minute, 0, time.Minute},
		{"certificate", Certificate, 24 * time.Hour, time.Minute, 0, 16 * time.Hour},
		{"certificate that is over", Certificate, -time.Hour, time.Minute, 0, time.Minute},
		{"static", Static, time.Hour, time.Minute, 0, time.Hour + slack},
		{"static, spread", Static, time.Hour, time.Minute, 1, time.Hour + slack + 10*time.Second},
		{"static in rotation", Static, 0, time.Hour, 1, slack},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := DueAt(tc.kind, epoch, after(tc.life), tc.interval, false, tc.chance).Sub(epoch); got.Round(time.Millisecond) != tc.want.Round(time.Millisecond) {
				t.Errorf("due after %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRecentEnough(t *testing.T) {
	minute := after(time.Minute)
	for _, tc := range []struct {
		name string
		kind Kind
		age  time.Duration
		own  bool
		want bool
	}{
		{"other's, young", Polled, 29 * time.Second, false, true},
		{"other's, half the interval", Polled, 30 * time.Second, false, false},
		{"own, before it is due", Polled, 53 * time.Second, true, true},
		{"own, at the scheduler's earliest", Polled, 57 * time.Second, true, false},
		{"own static until it is due", Static, 59 * time.Second, true, true},
		{"own static, due", Static, 60 * time.Second, true, false},
		{"other's static, half", Static, 31 * time.Second, false, false},
	} {
		testkit.Equal(t, tc.name+": recent enough", recentEnough(tc.kind, epoch, minute, after(tc.age), tc.own), tc.want)
	}
}

func TestFellShort(t *testing.T) {
	for _, tc := range []struct {
		asked, granted time.Duration
		want           bool
	}{
		{time.Hour, time.Hour, false}, {time.Hour, 59 * time.Minute, false}, {time.Hour, 50 * time.Minute, true},
		{5 * time.Second, 4 * time.Second, false}, {5 * time.Second, 2 * time.Second, true}, {time.Hour, 0, true},
	} {
		testkit.Equal(t, fmt.Sprintf("%s of %s fell short", tc.granted, tc.asked), fellShort(tc.asked, tc.granted), tc.want)
	}
}

func TestToken(t *testing.T) {
	tok := NewToken(nil, Grant{Value: "t", TTL: time.Hour, Renewable: true}, epoch, 0)
	if due, final := tok.isDue(after(37 * time.Minute)); due || final {
		t.Error("due too early")
	}
	if due, _ := tok.isDue(after(40 * time.Minute)); !due {
		t.Error("not due at two thirds")
	}
	if due, _ := tok.isDue(after(38 * time.Minute)); !due {
		t.Error("not due for a scheduler that comes 5 % early")
	}
	tok.extend(after(40*time.Minute), time.Hour, 0)
	if due, final := tok.isDue(after(77 * time.Minute)); due || final || !tok.alive(after(99*time.Minute)) {
		t.Error("a renewal did not extend it")
	}
	tok.extend(after(80*time.Minute), 20*time.Minute, 0)
	if due, final := tok.isDue(after(80 * time.Minute)); !due || !final {
		t.Error("a renewal that fell short must have it replaced at once")
	}
	if !tok.alive(after(99*time.Minute)) || tok.alive(after(100*time.Minute)) {
		t.Error("it lives as long as was granted")
	}
	batch := NewToken(nil, Grant{Value: "t", TTL: time.Hour}, epoch, 0)
	if due, final := batch.isDue(after(40 * time.Minute)); !due || !final {
		t.Error("a batch token is replaced at two thirds, not renewed")
	}
	forever := NewToken(nil, Grant{Value: "t"}, epoch, 0)
	if due, _ := forever.isDue(after(1e6 * time.Hour)); due || !forever.alive(after(1e6*time.Hour)) {
		t.Error("a TTL of 0 is for ever")
	}
}

func TestCurrent(t *testing.T) {
	of := func(ttl time.Duration) *Token { return NewToken(nil, Grant{Value: "t", TTL: ttl}, epoch, 0) }
	short, long, endless := of(time.Minute), of(time.Hour), of(0)
	var l group
	if l.token(epoch, nil) != nil || l.claim(nil) {
		t.Error("nothing is something")
	}
	l.restore(long)
	l.restore(short)
	if l.token(epoch, nil) != long {
		t.Error("the one that lives longer is to be restored")
	}
	l.restore(endless)
	l.restore(long)
	if l.token(epoch, nil) != endless || l.token(epoch.Add(1e6*time.Hour), nil) != endless {
		t.Error("the one that lives for ever is to be restored")
	}
	if l.current.Swap(short) != endless || l.token(epoch, nil) != short {
		t.Error("a new login takes the old one's place")
	}
	if l.token(epoch, short) != nil {
		t.Error("a stale token is current")
	}
	if l.token(epoch.Add(time.Minute-time.Second), nil) != short || l.token(epoch.Add(time.Minute-time.Millisecond), nil) != nil {
		t.Error("a token is good until a moment before its end")
	}
	if l.claim(long) || !l.claim(short) || l.claim(short) || l.token(epoch, nil) != nil {
		t.Error("one may claim the token, once")
	}
}

func TestAskTwice(t *testing.T) {
	denied := fault.New(fault.Denied, "denied")
	for name, c := range map[string]struct {
		age     time.Duration
		refuses int // so many tokens are refused
		with    error
		asks    int
		fails   bool
	}{
		"fine":                    {time.Hour, 0, denied, 1, false},
		"the token was revoked":   {time.Hour, 1, denied, 2, false},
		"it is not the token":     {time.Hour, 9, denied, 2, true},
		"it is new":               {time.Second, 9, denied, 1, true},
		"not a refusal":           {time.Hour, 9, errors.New("other"), 1, true},
		"old enough, by a second": {6 * time.Second, 1, denied, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			var last *Token
			asks := 0
			get := func(stale *Token) (*Token, error) {
				if stale != last {
					return nil, fmt.Errorf("stale is %v", stale)
				}
				return &Token{born: epoch}, nil
			}
			ask := func(tok *Token) (int, error) {
				last = tok
				if asks++; asks <= c.refuses {
					return 0, c.with
				}
				return 7, nil
			}
			now := func() time.Time { return epoch.Add(c.age) }
			got, err := AskTwice(now, get, ask, func(err error) bool { return errors.Is(err, denied) })
			if asks != c.asks || (err != nil) != c.fails || (err == nil && got != 7) || (err != nil && !errors.Is(err, c.with)) {
				t.Errorf("%d asks: %v, %v", asks, got, err)
			}
		})
	}
	none := errors.New("none")
	if _, err := AskTwice(func() time.Time { return epoch }, func(*Token) (*Token, error) { return nil, none }, func(*Token) (int, error) {
		t.Error("asked without a token")
		return 0, nil
	}, nil); !errors.Is(err, none) {
		t.Errorf("without a token: %v", err)
	}
}

func TestUsesOfAToken(t *testing.T) {
	two := NewToken(nil, Grant{Value: "t", TTL: time.Hour, Renewable: true, Uses: 2}, epoch, 0)
	if due, final := two.isDue(epoch); due || !final || !two.Limited() || !two.unused() {
		t.Error("a token with a number of uses is not renewed, and lives its time")
	}
	if !two.Take(usesToEnd) || two.Take(usesToEnd) || !two.Take(0) || two.Take(0) || two.unused() {
		t.Error("two uses are one for the lease and one for its end")
	}
	k, err := (&restorer{login: host("h")}).token(tokenState{Value: "t", Counted: true})
	if err != nil || k.Take(0) || !k.Limited() || k.unused() {
		t.Errorf("a restart gave uses back: %v", err)
	}
	if s := two.state(); !s.Counted || s.Uses != 0 {
		t.Errorf("the state is %+v", s)
	}
	unlimited := NewToken(nil, Grant{Value: "t", TTL: time.Hour}, epoch, 0)
	for range 100 {
		if !unlimited.Take(usesToEnd) {
			t.Fatal("a token without a number of uses ran out of them")
		}
	}
}

// host is a login.
type host string

func (h host) Destination() string { return string(h) }

func (h host) Access() provider.Access { return provider.Access{Address: string(h)} }

// TestTwoThirdsOfAnyLife has ends as far as X.509 can write them: twice as long
// a life is more than a Duration holds.
func TestTwoThirdsOfAnyLife(t *testing.T) {
	for name, end := range map[string]time.Time{
		"15 s":      epoch.Add(15 * time.Second),
		"a day":     epoch.AddDate(0, 0, 1),
		"100 years": epoch.AddDate(100, 0, 0),
		"147 years": epoch.AddDate(147, 0, 0),
		"200 years": epoch.AddDate(200, 0, 0),
		"300 years": epoch.AddDate(300, 0, 0),
		"9999":      time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		life := end.Sub(epoch)
		for _, chance := range []float64{0, 0.5, 1} {
			due := twoThirds(epoch, end, chance)
			if share := due.Sub(epoch).Seconds() / life.Seconds(); share < 0.58 || share > 0.67 {
				t.Errorf("%s, chance %v: due at %.2f of the life", name, chance, share)
			}
			if isDue(due, end, epoch.Add(life/3)) || !isDue(due, end, due) {
				t.Errorf("%s, chance %v: not due when it should be, or too early", name, chance)
			}
		}
		for _, at := range []time.Time{AfterChange(epoch, end, 1), AfterChange(epoch, end, 0)} {
			if at.Before(end) || at.Sub(end) > time.Minute {
				t.Errorf("%s: asked %s after the change", name, at.Sub(end))
			}
		}
	}
}

func TestNextIssue(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		-time.Hour: 5 * time.Second, 0: 5 * time.Second, time.Second: 5 * time.Second,
		3 * time.Second: 1500 * time.Millisecond, 5 * time.Second: 2500 * time.Millisecond,
		15 * time.Second: 5 * time.Second, time.Hour: 5 * time.Second, 1<<63 - 1: 5 * time.Second,
	} {
		testkit.Equal(t, fmt.Sprintf("the next issue for a life of %s", life), nextIssue(epoch, life).Sub(epoch), want)
		if due := twoThirds(epoch, epoch.Add(life), 1); life >= 3*time.Second && nextIssue(epoch, life).After(due) {
			t.Errorf("a life of %s is not replaced in time", life)
		}
	}
}

func TestDoubts(t *testing.T) {
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	var v volume
	for _, step := range []struct {
		at   int
		id   string
		want time.Duration
	}{{0, "a", 5 * time.Second}, {3, "a", 2 * time.Second}, {4, "b", 5 * time.Second}, {5, "a", 0}, {60, "a", 0}, {60, "b", 0}} {
		testkit.Equal(t, fmt.Sprintf("%s refused at %d s: ask again in", step.id, step.at), v.doubt(step.id, at(step.at)), step.want)
	}
	v.doubts.Forget("a")
	if v.doubt("a", at(70)) == 0 {
		t.Error("a refusal counts although there was an answer since the last one")
	}
	testkit.Equal(t, "the clock was set back: ask again in", v.doubt("a", at(10)), 5*time.Second)
	err := unverified(fault.New(fault.Denied, "permission denied"), 2*time.Second)
	if fault.Of(err) != fault.Unverified || fault.RetryAfter(err) != 2*time.Second {
		t.Errorf("%s after %s: %v", fault.Of(err), fault.RetryAfter(err), err)
	}
}

// issuing is a store that issues a credential of a life at each request.
type issuing struct {
	life   time.Duration
	now    time.Time
	issued int
}

func (s *issuing) Parse(c *class.Class) (*Spec, error) {
	q := &Request{ID: "a", Name: "a", Keys: []string{""}}
	return &Spec{Class: c.Ref, Login: host("h"), Objects: []*Object{{Name: "a", Request: q}}, Requests: []*Request{q}, Interval: 24 * time.Hour, Scope: c.CredentialScope}, nil
}

func (s *issuing) Identify(*Spec, Bearer, identity.Claims) Identity {
	return Identity{Login: host("h")}
}
func (s *issuing) Open(context.Context, *Caller) (Session, error)          { return s, nil }
func (s *issuing) File(_ *Object, a *Answer) ([]byte, error)               { return a.Body, nil }
func (s *issuing) Values(a *Answer) (map[string][]byte, error)             { return params.Values(a.Body) }
func (s *issuing) Version(_ *Object, _ *Answer, hash func() string) string { return hash() }
func (s *issuing) ReadLogin(json.RawMessage) (Login, error)                { return host("h"), nil }
func (s *issuing) Restored(Login, string, Kind, *Answer) error             { return nil }
func (s *issuing) Traits() Traits                                          { return Traits{} }

func (s *issuing) Login(context.Context) (*Token, bool, error) {
	return NewToken(host("h"), Grant{Value: "t"}, s.now, 0), false, nil
}

func (s *issuing) Issues(*Request) bool            { return true }
func (s *issuing) Leases(*Request) bool            { return false }
func (s *issuing) Batches([]*Request) [][]*Request { return nil }
func (s *issuing) Warnings() []string              { return nil }

func (s *issuing) Read(context.Context, Tokens, []*Request) (map[*Request]Read, error) {
	return nil, nil
}

func (s *issuing) Issue(context.Context, Tokens, *Request) (*Reading, error) {
	s.issued++
	id := strconv.Itoa(s.issued)
	return &Reading{Answer: &Answer{Body: []byte(id), LeaseID: id}, Kind: Leased, Asked: s.now, Read: s.now, At: s.now, End: s.now.Add(s.life)}, nil
}

func (s *issuing) Revoke(context.Context, Revocation, func(context.Context, bool) (*Token, error)) error {
	return nil
}

// TestPaceOfCredentials fetches a credential again and again: the next one is issued in time, and not
// without a pause.
func TestPaceOfCredentials(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		time.Second: 5 * time.Second, 15 * time.Second: 10 * time.Second, time.Hour: 40 * time.Minute,
	} {
		store := &issuing{life: life, now: epoch}
		settings := endpoint.Settings{Now: func() time.Time { return store.now }, Jitter: func() float64 { return 0 }}
		testkit.Must(t, settings.Complete())
		e := New(&settings, nil, store)
		r := provider.Request{Volume: "v", Class: &class.Class{}}
		for _, step := range []struct {
			at     time.Duration
			issued int
		}{{0, 1}, {want / 3, 1}, {want * 93 / 100, 1}, {want, 2}, {want + want*93/100, 2}, {2 * want, 3}} {
			store.now = after(step.at)
			p := testkit.Value(e.Fetch(t.Context(), r))(t)
			r.Current = p.Versions
			if store.issued != step.issued {
				t.Errorf("a credential of %s: %d issued after %s, want %d", life, store.issued, step.at, step.issued)
			}
			if due := after(want * time.Duration(step.issued)); step.at%want != 0 && !p.RefreshAt.Equal(due) {
				t.Errorf("a credential of %s: to be looked at after %s, want %s", life, p.RefreshAt.Sub(epoch), due.Sub(epoch))
			}
		}
	}
}

// The state of a volume has no credentials that have expired, whoever shares them.
func TestExpiredCredentialsAreForgotten(t *testing.T) {
	for _, scope := range []class.CredentialScope{class.ScopePod, class.ScopeServiceAccount} {
		store := &issuing{life: time.Hour, now: epoch}
		settings := endpoint.Settings{Now: func() time.Time { return store.now }, Jitter: func() float64 { return 0 }}
		testkit.Must(t, settings.Complete())
		e := New(&settings, nil, store)
		r := provider.Request{Volume: "v", Class: &class.Class{CredentialScope: scope}}
		most := 0
		for i := range 100 {
			store.now = after(time.Duration(i) * time.Hour)
			r.Current = testkit.Value(e.Fetch(t.Context(), r))(t).Versions
			size := e.Export("v").Len()
			if i < 5 {
				most = max(most, size+50)
			} else if size > most {
				t.Fatalf("scope %s: after %d credentials the state has %d bytes, more than %d", scope, store.issued, size, most)
			}
		}
	}
}

// FuzzToken takes a token through a renewal: it is due before it ends, and not
// before it was given.
func FuzzToken(f *testing.F) {
	f.Add(int64(time.Hour), true, 0, 0.5, int64(time.Hour))
	f.Add(int64(time.Second), false, 3, 1.0, int64(0))
	f.Add(int64(1), true, 1, 0.0, int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, ttl int64, renewable bool, uses int, chance float64, renewed int64) {
		const longest = 100 * 365 * 24 * time.Hour
		if !(chance >= 0 && chance <= 1) {
			return
		}
		tok := NewToken(nil, Grant{Value: "t", TTL: min(time.Duration(ttl), longest), Renewable: renewable, Uses: uses}, epoch, chance)
		check := func(now time.Time, ttl int64) {
			due, ends := tok.dueTime(), tok.Expires()
			if forever := ttl <= 0; forever != ends.IsZero() || forever != due.IsZero() {
				t.Fatalf("a token of %d ns is due at %s and ends at %s", ttl, due, ends)
			}
			if !ends.IsZero() && (due.Before(now) || due.After(ends) || !ends.After(now)) {
				t.Errorf("a token of %d ns at %s is due at %s and ends at %s", ttl, now, due, ends)
			}
			if is, _ := tok.isDue(ends); is != !ends.IsZero() {
				t.Errorf("due at its end: %v", is)
			}
		}
		check(epoch, ttl)
		later := tok.dueTime()
		if later.IsZero() {
			later = after(time.Hour)
		}
		tok.extend(later, min(time.Duration(renewed), longest), chance)
		check(later, renewed)
	})
}

// TestOlderThan: after a restart a volume's older state does not replace a newer credential, nor a
// renewed one.
func TestOlderThan(t *testing.T) {
	of := func(at, ends time.Duration) *Credential {
		return &Credential{Reading: &Reading{At: after(at)}, ends: after(ends)}
	}
	now := of(time.Hour, 2*time.Hour)
	for name, c := range map[string]struct {
		other *Credential
		older bool
	}{
		"issued before":    {of(time.Minute, 3*time.Hour), true},
		"issued later":     {of(2*time.Hour, 90*time.Minute), false},
		"renewed since":    {of(time.Hour, time.Hour), true},
		"the same":         {of(time.Hour, 2*time.Hour), false},
		"before a renewal": {of(time.Hour, 3*time.Hour), false},
	} {
		testkit.Equal(t, name+": older", c.other.olderThan(now), c.older)
	}
}

func TestTiming(t *testing.T) {
	hour := epoch.Add(time.Hour)
	for name, c := range map[string]struct{ got, want time.Time }{
		"two thirds":               {twoThirds(epoch, hour, 0), epoch.Add(40 * time.Minute)},
		"earlier by chance":        {twoThirds(epoch, hour, 1), epoch.Add(40*time.Minute - 288*time.Second)},
		"not at once":              {twoThirds(epoch, epoch.Add(time.Second), 1), epoch.Add(time.Second*2/3 - 80*time.Millisecond)},
		"earliest, without zeroes": {clock.Earliest(time.Time{}, hour, epoch, time.Time{}), epoch},
		"earliest of nothing":      {clock.Earliest(time.Time{}), time.Time{}},
		"after a change, spread":   {AfterChange(epoch.Add(-time.Hour), epoch, 1), epoch.Add(12 * time.Second)},
		"after a change, soon":     {AfterChange(epoch.Add(-20*time.Second), epoch, 1), epoch.Add(3 * time.Second)},
		"after a change, past":     {AfterChange(epoch.Add(time.Hour), epoch, 1), epoch.Add(2 * time.Second)},
		"after a change":           {AfterChange(epoch.Add(-time.Hour), epoch, 0), epoch.Add(2 * time.Second)},
	} {
		if d := c.got.Sub(c.want); d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	due := epoch.Add(40 * time.Minute)
	if isDue(due, hour, due.Add(-3*time.Minute)) || !isDue(due, hour, due.Add(-2*time.Minute)) {
		t.Error("what is due in 12 % of the last third is due, and nothing before")
	}
}
