package session_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

func TestGroups(t *testing.T) {
	type group struct{ of string }
	begin := func(key string) *group { return &group{key} }
	var all session.Groups[string, group]
	a := all.Join("alice", "v1", begin)
	if all.Join("alice", "v2", begin) != a || all.Find("alice") != a {
		t.Error("two volumes of an identity do not share")
	}
	if b := all.Join("bob", "v3", begin); b == a || b.of != "bob" {
		t.Error("two identities share")
	}
	if all.Leave("alice", a, "v1") || all.Find("alice") != a {
		t.Error("the group ended with its first volume")
	}
	if !all.Leave("alice", a, "v2") || all.Find("alice") != nil {
		t.Error("the group outlives its last volume")
	}
	again := all.Join("alice", "v4", begin)
	if again == a {
		t.Error("a group that ended comes back")
	}
	if !all.Leave("alice", a, "v4") || all.Find("alice") != again {
		t.Error("who leaves the old group takes a volume out of the new one")
	}
}

type token struct{ born, ends time.Time }

func (t *token) Born() time.Time { return t.born }
func (t *token) Ends() time.Time { return t.ends }

func TestLogin(t *testing.T) {
	short, long, endless := &token{start, start.Add(time.Minute)}, &token{start, start.Add(time.Hour)}, &token{start, time.Time{}}
	var l session.Login[*token]
	if l.Current(start, nil) != nil || l.Claim(nil) {
		t.Error("nothing is something")
	}
	l.Restore(long)
	l.Restore(short)
	if l.Current(start, nil) != long {
		t.Error("the one that lives longer is to be restored")
	}
	l.Restore(endless)
	l.Restore(long)
	if l.Current(start, nil) != endless || l.Current(start.Add(1e6*time.Hour), nil) != endless {
		t.Error("the one that lives for ever is to be restored")
	}
	if l.Adopt(short) != endless || l.Current(start, nil) != short {
		t.Error("a new login takes the old one's place")
	}
	if l.Current(start, short) != nil {
		t.Error("a stale token is current")
	}
	if l.Current(start.Add(time.Minute-time.Second), nil) != short || l.Current(start.Add(time.Minute-time.Millisecond), nil) != nil {
		t.Error("a token is good until a moment before its end")
	}
	if l.Claim(long) || !l.Claim(short) || l.Claim(short) || l.Current(start, nil) != nil {
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
			var last *token
			asks := 0
			get := func(stale *token) (*token, error) {
				if stale != last {
					return nil, fmt.Errorf("stale is %v", stale)
				}
				return &token{born: start}, nil
			}
			ask := func(tok *token) (int, error) {
				last = tok
				if asks++; asks <= c.refuses {
					return 0, c.with
				}
				return 7, nil
			}
			now := func() time.Time { return start.Add(c.age) }
			got, err := session.AskTwice(now, get, ask, func(err error) bool { return errors.Is(err, denied) })
			if asks != c.asks || (err != nil) != c.fails || (err == nil && got != 7) || (err != nil && !errors.Is(err, c.with)) {
				t.Errorf("%d asks: %v, %v", asks, got, err)
			}
		})
	}
	none := errors.New("none")
	if _, err := session.AskTwice(fixed, func(*token) (*token, error) { return nil, none }, func(*token) (int, error) {
		t.Error("asked without a token")
		return 0, nil
	}, nil); !errors.Is(err, none) {
		t.Errorf("without a token: %v", err)
	}
}

type answer struct{ asked time.Time }

func (a *answer) AskedAt() time.Time { return a.asked }
func (a *answer) Size() int64        { return 100 }

func TestAnswers(t *testing.T) {
	old, young := &answer{start}, &answer{start.Add(time.Second)}
	var r session.Answers[*answer]
	if r.Last("a") != nil {
		t.Error("nothing is something")
	}
	r.Keep("a", young)
	r.Keep("a", old)
	r.Keep("b", old)
	if r.Last("a") != young || r.Last("b") != old {
		t.Error("an older answer took a newer one's place")
	}
	newest := &answer{start.Add(time.Minute)}
	r.Keep("a", newest)
	all := r.All()
	r.Retain(map[string]bool{"a": true, "c": true})
	if r.Last("a") != newest || r.Last("b") != nil || len(all) != 2 || all["b"] != old {
		t.Errorf("have %v, had %v", r.All(), all)
	}
}

// TestRefusals: what was refused is given to nobody until it was answered again,
// and stays for the files that have it.
func TestRefusals(t *testing.T) {
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var r session.Answers[*answer]
	a, b := &answer{at(1)}, &answer{at(1)}
	r.Keep("a", a)
	r.Keep("b", b)
	r.Refuse("a", at(2))
	r.Refuse("a", at(1)) // told late
	if r.Last("a") != nil || r.Held("a") != a || r.Last("b") != b || r.Allows("a", at(2)) || !r.Allows("a", at(3)) || !r.Allows("b", at(1)) {
		t.Errorf("a was refused: %v, %v, %v", r.Last("a"), r.Held("a"), r.Last("b"))
	}
	again := &answer{at(3)}
	r.Keep("a", again)
	if r.Last("a") != again {
		t.Error("what is answered again is not given")
	}
	r.Refuse(session.Everything, at(4))
	if r.Last("a") != nil || r.Last("b") != nil || r.Allows("c", at(4)) || !r.Allows("c", at(5)) {
		t.Error("everything was refused")
	}
	r.Retain(map[string]bool{"b": true})
	if got := r.Refusals(); len(got) != 1 || !got[session.Everything].Equal(at(4)) || r.Held("a") != nil || r.Held("b") != b {
		t.Errorf("kept are %v and %v", got, r.All())
	}
	r.DropRefused()
	if r.Held("b") != nil {
		t.Error("what was dropped is held")
	}
	for i := range 10_000 {
		r.Refuse(fmt.Sprint(i), at(5))
	}
	if n := len(r.Refusals()); n > 5000 || r.Allows("1", at(5)) || r.Allows("9999", at(5)) {
		t.Errorf("%d refusals are kept", n)
	}
	for reason, want := range map[fault.Reason]bool{fault.Denied: true, fault.Unverified: true, fault.NotFound: false, fault.Unavailable: false} {
		if session.Refused(fault.New(reason, "no")) != want {
			t.Errorf("%s is a refusal: %v", reason, !want)
		}
	}
	if session.Refused(nil) {
		t.Error("no error is a refusal")
	}
}

// TestMemoryIsBounded remembers more than it may.
func TestMemoryIsBounded(t *testing.T) {
	const many = 10_000
	var m session.Memory[int, string]
	var r session.Answers[*answer]
	for i := range many {
		m.Set(i, "x")
		r.Keep(fmt.Sprint(i), &answer{start})
	}
	known := 0
	for i := range many {
		if m.Has(i) {
			known++
		}
	}
	if known > many/2 || len(r.All()) > many/2 || !m.Has(many-1) || r.Last(fmt.Sprint(many-1)) == nil {
		t.Errorf("%d and %d are remembered", known, len(r.All()))
	}
	m.Set(1, "one")
	if v, ok := m.Get(1); v != "one" || !ok {
		t.Errorf("got %q", v)
	}
	if m.Forget(1); m.Has(1) {
		t.Error("not forgotten")
	}
}
