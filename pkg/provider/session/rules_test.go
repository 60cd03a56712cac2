package session

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
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
		if got := recentEnough(tc.kind, epoch, minute, after(tc.age), tc.own); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
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
		if got := fellShort(tc.asked, tc.granted); got != tc.want {
			t.Errorf("%s of %s: %v", tc.granted, tc.asked, got)
		}
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
