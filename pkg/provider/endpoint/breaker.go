package endpoint

import (
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// failuresToOpen is how many failures in a row open a circuit.
	failuresToOpen = 3
	// placesToOpen is how many places of one tenant must fail in a row to
	// hold up all places that failed together: one broken database behind one
	// secret is left alone by itself.
	placesToOpen = 3
	// tenantsToOpen is how many tenants must have met failures, and no tenant
	// an answer in between, to hold up others: one tenant's paths can all be
	// broken while the server is well.
	tenantsToOpen = 2
	// An open circuit lets one request through in a while, which grows with
	// the age of the outage: by one part in probeShare of it.
	firstProbe, longestProbe = time.Second, 30 * time.Second
	probeShare               = 30
	// returnSpread is over how long those that were turned away come back, at
	// the least; in a long outage it is as long as the pause between probes.
	returnSpread = 2 * time.Second
	// longestOpen bounds what one Retry-After does to the volumes of a node.
	longestOpen = time.Minute
	// maxKnown bounds what is remembered of tenants and places, and maxMet what
	// one circuit remembers. Where there is more, it is forgotten, and learned
	// anew.
	maxKnown, maxMet = 4096, 1024
)

// Outcome is what one request says of the health of its server.
type Outcome int

// The outcomes of a request.
const (
	// NothingSaid is a failure on our side.
	NothingSaid Outcome = iota
	// Answered is any answer, a denial too.
	Answered
	// BrokenPlace is an answer that something behind the server is broken.
	BrokenPlace
	// Unanswered is no answer to this request. A single path can do that, so
	// it says nothing of others.
	Unanswered
	// Outage is the server's own word that it does not serve now.
	Outage
	// Unreachable is a connection that did not come about.
	Unreachable
)

// ErrNotAsked is in the error of a request that was not made.
var ErrNotAsked = errors.New("not asked again yet, because this failed moments ago")

// Caller says for whom a server is asked, and for what.
type Caller struct {
	// Namespace is the store's: one can be sealed while others are well.
	Namespace string
	// Tenant is the Kubernetes namespace of the pod.
	Tenant string
	// Place is what the request asks for: a path, an item.
	Place string
}

// Breaker keeps a node's volumes from hammering a server that is down or just
// recovering, or one broken place of a server that is well. What one tenant
// meets holds up that tenant alone:
//
//   - A place that fails is left alone for its tenant.
//   - When several places of a tenant fail in a row, they are left alone
//     together. Other places are asked all the same.
//   - When the server turns a tenant away, all of the tenant's requests to that
//     namespace of the store wait.
//   - When several tenants met such failures, and none got an answer in
//     between, they wait together; where the server turned them away, so do all
//     other tenants.
//   - When no connection comes about, everything waits.
//
// An answer ends all of that for what it was asked for, for its tenant and for
// what tenants share. The zero value lets everything pass.
type Breaker struct {
	mu         sync.Mutex
	connection circuit
	namespaces map[string]*namespace
	known      int // tenants and places
}

// namespace is what is known of one namespace of the store.
type namespace struct {
	away, broken circuit // of tenants
	tenants      map[string]*tenant
}

// tenant is what one tenant met there.
type tenant struct {
	away   circuit
	broken circuit // of places
	places map[string]*circuit
}

// Admit lets a request pass, or says when to come back. chance is from 0 to 1.
func (b *Breaker) Admit(now time.Time, chance float64, c Caller) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	open, why := b.open(c)
	for _, o := range open {
		if now.Before(o.probe) {
			err := fault.New(fault.Of(why), "%w (%w)", why, ErrNotAsked)
			err.RetryAfter = longestWait(open, now, chance)
			return err
		}
	}
	for _, o := range open {
		o.tried(now, chance)
	}
	return nil
}

// open are the open circuits in the way of a request, and the failure that it
// is told: its tenant's own, or what the server said of itself.
func (b *Breaker) open(c Caller) (open []*circuit, why error) {
	add := func(o *circuit, last error) {
		if !o.open {
			return
		}
		open = append(open, o)
		if why == nil {
			why = last
		}
	}
	if n := b.namespaces[c.Namespace]; n != nil {
		if t := n.tenants[c.Tenant]; t != nil {
			if p := t.places[c.Place]; p != nil {
				add(p, p.last)
			}
			if t.broken.met[c.Place] {
				add(&t.broken, t.broken.last)
				add(&n.broken, t.broken.last)
			}
			add(&t.away, t.away.last)
		}
		add(&n.away, n.away.last)
	}
	add(&b.connection, b.connection.last)
	return open, why
}

// Record takes note of how a request went.
func (b *Breaker) Record(now time.Time, o Outcome, c Caller, retryAfter time.Duration, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := failed{now, retryAfter, failure}
	switch o {
	case NothingSaid:
		return
	case Unreachable:
		b.connection.fail(f, "", 1)
		return
	}
	b.connection = circuit{}
	switch o {
	case Answered:
		b.answered(c)
	case BrokenPlace, Unanswered:
		n, t := b.of(c)
		if o == BrokenPlace { // it answers, if badly
			n.away, t.away = circuit{}, circuit{}
		}
		b.place(t, c.Place).fail(f, "", 1)
		t.broken.fail(f, c.Place, placesToOpen)
		n.broken.fail(f, c.Tenant, tenantsToOpen)
	case Outage:
		n, t := b.of(c)
		t.away.fail(f, "", 1)
		n.away.fail(f, c.Tenant, tenantsToOpen)
	}
}

// answered forgets what an answer disproves, and what nothing is known of.
func (b *Breaker) answered(c Caller) {
	n := b.namespaces[c.Namespace]
	if n == nil {
		return
	}
	n.away, n.broken = circuit{}, circuit{}
	if t := n.tenants[c.Tenant]; t != nil {
		t.away, t.broken = circuit{}, circuit{}
		if t.places[c.Place] != nil {
			delete(t.places, c.Place)
			b.known--
		}
		if len(t.places) == 0 {
			delete(n.tenants, c.Tenant)
			b.known--
		}
	}
	if len(n.tenants) == 0 {
		delete(b.namespaces, c.Namespace)
	}
}

func (b *Breaker) of(c Caller) (*namespace, *tenant) {
	if b.namespaces == nil || b.known >= maxKnown {
		b.namespaces, b.known = map[string]*namespace{}, 0
	}
	n := b.namespaces[c.Namespace]
	if n == nil {
		n = &namespace{tenants: map[string]*tenant{}}
		b.namespaces[c.Namespace] = n
	}
	t := n.tenants[c.Tenant]
	if t == nil {
		t = &tenant{places: map[string]*circuit{}}
		n.tenants[c.Tenant] = t
		b.known++
	}
	return n, t
}

func (b *Breaker) place(t *tenant, name string) *circuit {
	p := t.places[name]
	if p == nil {
		p = &circuit{}
		t.places[name] = p
		b.known++
	}
	return p
}

// Advise tells a caller whose own request failed when to come back, where that
// request opened a circuit or was a probe. The store's own word comes first.
func (b *Breaker) Advise(failure error, now time.Time, chance float64, c Caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var f *fault.Error
	if !errors.As(failure, &f) || f.RetryAfter > 0 {
		return
	}
	if open, _ := b.open(c); len(open) > 0 {
		f.RetryAfter = longestWait(open, now, chance)
	}
}

// wait is when to come back: after the next probe, spread.
func longestWait(open []*circuit, now time.Time, chance float64) (longest time.Duration) {
	for _, o := range open {
		spread := max(returnSpread, o.pause(now))
		longest = max(longest, max(0, o.probe.Sub(now))+time.Duration(chance*float64(spread)))
	}
	return longest
}

// circuit counts failures in a row. While it is open one request in a while
// passes, and the first that is answered closes it.
type circuit struct {
	failures int
	met      map[string]bool // what failed: places, or tenants
	last     error
	open     bool
	since    time.Time
	probe    time.Time // of the next request that passes
	step     time.Duration
}

// failed is one failure.
type failed struct {
	at         time.Time
	retryAfter time.Duration
	why        error
}

// fail counts a failure of something. The circuit opens when so many different
// ones failed.
func (c *circuit) fail(f failed, what string, different int) {
	c.failures++
	c.last = f.why
	if c.met == nil || len(c.met) >= maxMet {
		c.met = map[string]bool{}
	}
	c.met[what] = true
	pause := max(firstProbe, c.step)
	if !c.open {
		if c.failures < failuresToOpen || len(c.met) < different {
			return
		}
		c.open, c.since, pause = true, f.at, firstProbe
	}
	next := f.at.Add(max(pause, min(f.retryAfter, longestOpen)))
	if next.After(c.probe) {
		c.probe = next
	}
}

// pause is how long the next probe is after one that fails now.
func (c *circuit) pause(now time.Time) time.Duration {
	return min(max(now.Sub(c.since)/probeShare, firstProbe), longestProbe)
}

// tried notes that a request passes, and spreads the next.
func (c *circuit) tried(now time.Time, chance float64) {
	pause := c.pause(now)
	c.step = pause*4/5 + time.Duration(chance*float64(pause)*2/5)
	c.probe = now.Add(c.step)
}
