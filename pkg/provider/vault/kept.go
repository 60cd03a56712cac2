package vault

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const keptVersion = 1

// keptVolume is what Export writes. It is as secret as the tokens in it.
type keptVolume struct {
	session.State
	Pod      identity.Pod  `json:"pod"`
	Identity *keptIdentity `json:"identity,omitempty"`
	Session  *keptToken    `json:"session,omitempty"`
	Readings []keptReading `json:"readings,omitempty"`
	Own      keptHolder    `json:"own"`
	Group    keptHolder    `json:"group"`
	Retired  []keptToken   `json:"retired,omitempty"`
	// Refused is when the store last refused each request.
	Refused map[string]time.Time `json:"refused,omitempty"`
}

type keptIdentity struct {
	Login             keptLogin `json:"login"`
	Namespace         string    `json:"namespace"`
	ServiceAccount    string    `json:"serviceAccount"`
	ServiceAccountUID string    `json:"serviceAccountUID"`
	Pod               string    `json:"pod,omitempty"`
}

type keptLogin struct {
	Address   string       `json:"address"`
	TLS       endpoint.TLS `json:"tls"`
	Namespace string       `json:"namespace,omitempty"`
	Mount     string       `json:"mount"`
	Role      string       `json:"role"`
	Audience  string       `json:"audience"`
	Sharing   sharing      `json:"sharing,omitempty"`
}

type keptToken struct {
	Login     keptLogin     `json:"login"`
	Value     string        `json:"value"`
	Born      time.Time     `json:"born"`
	Renewable bool          `json:"renewable,omitempty"`
	TTL       time.Duration `json:"ttl"`
	Due       time.Time     `json:"due"`
	Expires   time.Time     `json:"expires"`
	Final     bool          `json:"final,omitempty"`
	// Uses are those that are left, of a token that Counted says has a number.
	Uses    int  `json:"uses,omitempty"`
	Counted bool `json:"counted,omitempty"`
}

type keptReading struct {
	Request string          `json:"request"`
	Body    json.RawMessage `json:"body,omitempty"`
	Part    *keptPart       `json:"part,omitempty"` // where not all is kept
	Kind    kind            `json:"kind"`
	Asked   time.Time       `json:"asked"`
	Read    time.Time       `json:"read"`
	At      time.Time       `json:"at,omitzero"`
	End     time.Time       `json:"end,omitzero"`
	Due     time.Time       `json:"due,omitzero"`
	Absent  bool            `json:"absent,omitempty"`
}

// keptPart is an answer of which the class takes a part.
type keptPart struct {
	params.Part
	LeaseID   string        `json:"leaseID,omitempty"`
	Duration  time.Duration `json:"duration,omitempty"`
	Renewable bool          `json:"renewable,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"`
	Version   string        `json:"version,omitempty"` // of KV
	Created   string        `json:"created,omitempty"` // likewise
}

type keptHolder struct {
	Tokens []keptToken `json:"tokens,omitempty"`
	Held   []keptHeld  `json:"held,omitempty"`
}

type keptHeld struct {
	Reading keptReading `json:"reading"`
	Due     time.Time   `json:"due"`
	Ends    time.Time   `json:"ends"`
	Token   int         `json:"token"` // the place in the holder's tokens; -1 for none
	Replace bool        `json:"replace,omitempty"`
}

func keepLogin(l login) keptLogin {
	return keptLogin{l.target.Address.String(), l.target.TLS, l.namespace, l.mount, l.role, l.audience, l.sharing}
}

func (k keptLogin) restore() (login, error) {
	a, err := endpoint.ParseAddressOrSocket(k.Address)
	if err != nil {
		return login{}, fault.New(fault.State, "the address of a login: %w", err)
	}
	return login{endpoint.Target{Address: a, TLS: k.TLS}, k.Namespace, k.Mount, k.Role, k.Audience, k.Sharing}, nil
}

// hastenCertificates has certificates end by the wall clock where that was set
// forward: their end is a fixed time, and not so long after their issue.
func (k *keptVolume) hastenCertificates(forward time.Duration) {
	for _, list := range [][]keptHeld{k.Own.Held, k.Group.Held} {
		for i, h := range list {
			if h.Reading.Kind == certificate {
				list[i].Due, list[i].Ends, list[i].Reading.End = h.Due.Add(-forward), h.Ends.Add(-forward), h.Reading.End.Add(-forward)
			}
		}
	}
}

func keepToken(t *token) keptToken {
	t.mu.Lock()
	defer t.mu.Unlock()
	return keptToken{keepLogin(t.login), t.value.Reveal(), t.born, t.renewable, t.ttl, t.due, t.expires, t.final, t.uses, t.counted}
}

func keepTokens(list []*token) []keptToken {
	var out []keptToken
	for _, t := range list {
		out = append(out, keepToken(t))
	}
	return out
}

func (k keptToken) restore() (*token, error) {
	l, err := k.Login.restore()
	if err != nil {
		return nil, err
	}
	if k.Value == "" || endpoint.HasControl(k.Value) {
		return nil, fault.New(fault.State, "a Vault token is empty or unusable")
	}
	return &token{
		login: l, value: secret.NewString(k.Value), born: k.Born, renewable: k.Renewable,
		ttl: k.TTL, due: k.Due, expires: k.Expires, final: k.Final, uses: k.Uses, counted: k.Counted, given: -1,
	}, nil
}

func restoreTokens(list []keptToken) ([]*token, error) {
	var out []*token
	for _, k := range list {
		t, err := k.restore()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func keepReading(id string, rd *reading) keptReading {
	k := keptReading{Request: id, Kind: rd.kind, Asked: rd.asked, Read: rd.read, At: rd.at, End: rd.end, Due: rd.due, Absent: rd.absent}
	switch {
	case rd.answer == nil:
	case rd.answer.body != nil:
		k.Body = rd.answer.body
	default:
		k.Part = keepPart(rd.answer)
	}
	return k
}

func keepPart(a *answer) *keptPart {
	return &keptPart{*a.part, a.leaseID, a.duration, a.renewable, a.warnings, a.kv.number, a.kv.created}
}

func (p *keptPart) restore() (*answer, error) {
	if err := p.Restore(); err != nil {
		return nil, fault.New(fault.State, "a value of an answer cannot be decoded")
	}
	return &answer{
		part: &p.Part, leaseID: p.LeaseID, duration: p.Duration, renewable: p.Renewable,
		warnings: p.Warnings, kv: kvVersion{p.Version, p.Created},
	}, nil
}

// size is about how many bytes the answer takes in the state.
func (k keptReading) size() int {
	if k.Part != nil {
		return k.Part.Size()
	}
	return len(k.Body)
}

// maxKept bounds the answers in one volume's state. They save a read after a
// restart and no more, and the states of all volumes share a small memory.
const maxKept = 64 << 10

// keepReadings keeps the small answers. A large one is read again when the
// volume is next due.
func keepReadings(readings map[string]*reading) []keptReading {
	var out []keptReading
	for id, rd := range readings {
		out = append(out, keepReading(id, rd))
	}
	slices.SortFunc(out, func(a, b keptReading) int {
		return cmp.Or(cmp.Compare(a.size(), b.size()), cmp.Compare(a.Request, b.Request))
	})
	size := 0
	for i, k := range out {
		if size += k.size(); size > maxKept {
			return out[:i]
		}
	}
	return out
}

func (k keptReading) restore() (*reading, error) {
	rd := &reading{kind: k.Kind, asked: k.Asked, read: k.Read, at: k.At, end: k.End, due: k.Due, absent: k.Absent}
	if k.Absent {
		return rd, nil
	}
	if k.Kind < polled || k.Kind > once {
		return nil, fault.New(fault.State, "an answer is of an unknown kind")
	}
	if k.Part != nil {
		var err error
		rd.answer, err = k.Part.restore()
		return rd, err
	}
	a, err := decodeAnswer(k.Body, "state")
	if err != nil {
		return nil, fault.New(fault.State, "an answer: %w", err)
	}
	rd.answer = a
	return rd, nil
}

// key of the request that a reading answers, as far as learned wants it.
func (k keptReading) request() (*request, bool) {
	parts := strings.SplitN(k.Request, "\n", 4)
	if len(parts) != 4 {
		return nil, false
	}
	return &request{method: parts[0], path: parts[1]}, true
}

func keepHolder(h *holder) keptHolder {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := keptHolder{Tokens: keepTokens(h.tokens)}
	for id, c := range h.held {
		at := -1
		for i, t := range h.tokens {
			if t == c.token {
				at = i
			}
		}
		k.Held = append(k.Held, keptHeld{keepReading(id, c.reading), c.due, c.ends, at, c.replace})
	}
	return k
}

// restoreInto adds what the holder does not have in a newer state.
func (k keptHolder) restoreInto(h *holder) error {
	tokens, err := restoreTokens(k.Tokens)
	if err != nil {
		return err
	}
	for i, t := range tokens {
		tokens[i] = h.addRestored(t)
	}
	for _, kc := range k.Held {
		rd, err := kc.Reading.restore()
		if err != nil {
			return err
		}
		c := &held{reading: rd, due: kc.Due, ends: kc.Ends, replace: kc.Replace, known: rd.at}
		switch {
		case kc.Token >= 0 && kc.Token < len(tokens):
			c.token = tokens[kc.Token]
		case rd.kind == leased:
			continue // its Vault token is gone, and it with that
		}
		if have := h.get(kc.Reading.Request); have == nil || have.olderThan(c) {
			h.put(kc.Reading.Request, c)
		}
	}
	return nil
}

// olderThan tells whether o is a newer credential, or the same one after a
// renewal.
func (c *held) olderThan(o *held) bool {
	if !c.at.Equal(o.at) {
		return c.at.Before(o.at)
	}
	return c.ends.Before(o.ends)
}

// catchUp takes the state of the same token that was written after its last
// renewal: volumes that share a token do not all write at that time.
func (t *token) catchUp(o *token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if later := o.expires.IsZero() || o.expires.After(t.expires); later && !t.expires.IsZero() {
		t.ttl, t.due, t.expires, t.final = o.ttl, o.due, o.expires, o.final
	}
}

// addRestored finds the token that the holder has from another volume's state
// already, or adds it.
func (h *holder) addRestored(t *token) *token {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, have := range h.tokens {
		if have.value.Reveal() == t.value.Reveal() {
			have.catchUp(t)
			return have
		}
	}
	h.tokens = append(h.tokens, t)
	return t
}
