package endpoint

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

const (
	// failuresToOpen is how many failures in a row open a circuit.
	failuresToOpen = 3
	// pathsToOpen is how many paths of one tenant must fail in a row to open the
	// circuit of all paths that failed: one broken database behind one secret
	// opens only the circuit of its own path.
	pathsToOpen = 3
	// tenantsToOpen is how many tenants must have failed, without a response to
	// any tenant in between, to open the circuit of all of them: one tenant's
	// paths can all be broken while the server works.
	tenantsToOpen = 2
	// An open circuit lets one request through in a while, which grows with
	// the age of the outage: by one part in probeShare of it.
	firstProbe, longestProbe = time.Second, 30 * time.Second
	probeShare               = 30
	// longestOpen bounds what one Retry-After does to the volumes of a node.
	longestOpen = time.Minute
	// maxKnown bounds the number of tenants and paths in memory, and maxMet those
	// of one circuit. At the limit the breaker forgets all of them.
	maxKnown, maxMet = 4096, 1024
)

// Outcome is what one request shows about the health of its server.
type Outcome int

// The outcomes of a request.
const (
	// LocalFailure is a failure on our side.
	LocalFailure Outcome = iota
	// Answered is any answer, a denial too.
	Answered
	// BrokenPath is a response that something behind the server does not work.
	BrokenPath
	// Unanswered means that this request got no response. A single path can cause
	// that, so it does not count for other paths.
	Unanswered
	// Outage is a response that the server does not serve now.
	Outage
	// Unreachable means that the connection failed.
	Unreachable
)

// Caller says for whom a request is, and what it reads.
type Caller struct {
	// Namespace is the store's: one can be sealed while others work.
	Namespace string
	// Tenant is the Kubernetes namespace of the pod.
	Tenant string
	// Path is what the request asks for: a path of Vault, an item of Akeyless.
	Path string
}

// Breaker limits the requests of a node's volumes to a server that is down or has
// just recovered, or to one broken path of a working server. Failures of one tenant
// affect only that tenant:
//
//   - A path that fails opens the circuit of that path for its tenant.
//   - When several paths of a tenant fail in a row, they share a circuit. Other
//     paths are not affected.
//   - When the server answers a tenant that it does not serve, all of the tenant's
//     requests to that namespace of the store wait.
//   - When several tenants had such failures, without a response to any of them in
//     between, they share a circuit; if the server answered that it does not serve,
//     the circuit includes all other tenants.
//   - When no connection succeeds, all requests wait.
//
// A response closes the circuits of its path, of its tenant and of all tenants. The
// zero value has no open circuit.
type Breaker struct {
	mu         sync.Mutex
	connection circuit
	namespaces map[string]*namespace
	known      int // tenants and paths
}

// namespace has the circuits of one namespace of the store.
type namespace struct {
	away, broken circuit // of tenants
	tenants      map[string]*tenant
}

// tenant has the circuits of one tenant there.
type tenant struct {
	away   circuit
	broken circuit // of paths
	paths  map[string]*circuit
}

// Admit admits a request, or returns an error with the time of the next probe. chance is from 0 to 1.
func (b *Breaker) Admit(now time.Time, chance float64, c Caller) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	open, why := b.open(c)
	for _, o := range open {
		if now.Before(o.probe) {
			err := fault.New(fault.Of(why), "%w (not asked again yet, because this failed moments ago)", why)
			err.RetryAfter, err.NotAsked = longestWait(open, now), true
			return err
		}
	}
	for _, o := range open {
		o.tried(now, chance)
	}
	return nil
}

// open returns the open circuits of a request, and the failure for its error: that
// of its tenant, or the server's own.
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
			if p := t.paths[c.Path]; p != nil {
				add(p, p.last)
			}
			if t.broken.met[c.Path] {
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

// Record records the outcome of a request. It reports whether that closed a circuit.
func (b *Breaker) Record(now time.Time, o Outcome, c Caller, retryAfter time.Duration, failure error) (closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := failed{now, retryAfter, failure}
	switch o {
	case LocalFailure:
		return false
	case Unreachable:
		b.connection.fail(f, "", 1)
		return false
	}
	closed = b.connection.close()
	switch o {
	case Answered:
		return b.answered(c) || closed
	case BrokenPath, Unanswered:
		n, t := b.of(c)
		if o == BrokenPath { // it answers, if badly
			closed = closeAll(&n.away, &t.away) || closed
		}
		b.path(t, c.Path).fail(f, "", 1)
		t.broken.fail(f, c.Path, pathsToOpen)
		n.broken.fail(f, c.Tenant, tenantsToOpen)
	case Outage:
		n, t := b.of(c)
		t.away.fail(f, "", 1)
		n.away.fail(f, c.Tenant, tenantsToOpen)
	}
	return closed
}

// answered closes the circuits of a request that got a response, and deletes empty entries.
// It reports whether one was open.
func (b *Breaker) answered(c Caller) (closed bool) {
	n := b.namespaces[c.Namespace]
	if n == nil {
		return false
	}
	closed = closeAll(&n.away, &n.broken)
	if t := n.tenants[c.Tenant]; t != nil {
		closed = closeAll(&t.away, &t.broken) || closed
		if p := t.paths[c.Path]; p != nil {
			closed = p.close() || closed
			delete(t.paths, c.Path)
			b.known--
		}
		if len(t.paths) == 0 {
			delete(n.tenants, c.Tenant)
			b.known--
		}
	}
	if len(n.tenants) == 0 {
		delete(b.namespaces, c.Namespace)
	}
	return closed
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
		t = &tenant{paths: map[string]*circuit{}}
		n.tenants[c.Tenant] = t
		b.known++
	}
	return n, t
}

func (b *Breaker) path(t *tenant, name string) *circuit {
	p := t.paths[name]
	if p == nil {
		p = &circuit{}
		t.paths[name] = p
		b.known++
	}
	return p
}

// Advise sets the time of the next probe in the error of a request that opened a circuit
// or was a probe. It does not replace a time from the store.
func (b *Breaker) Advise(failure error, now time.Time, c Caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := errors.AsType[*fault.Error](failure)
	if !ok || f.RetryAfter > 0 {
		return
	}
	if open, _ := b.open(c); len(open) > 0 {
		f.RetryAfter = longestWait(open, now)
	}
}

// longestWait is the wait until all of the circuits admit a probe.
func longestWait(open []*circuit, now time.Time) (longest time.Duration) {
	for _, o := range open {
		longest = max(longest, o.probe.Sub(now))
	}
	return longest
}

// circuit counts failures in a row. While it is open, it admits one request from
// time to time, and the first response closes it.
type circuit struct {
	failures int
	met      map[string]bool // what failed: paths, or tenants
	last     error
	open     bool
	since    time.Time
	probe    time.Time // of the next request that passes
	step     time.Duration
}

// close forgets all failures. It reports whether the circuit was open.
func (c *circuit) close() (closed bool) {
	closed = c.open
	*c = circuit{}
	return closed
}

func closeAll(all ...*circuit) (closed bool) {
	for _, c := range all {
		closed = c.close() || closed
	}
	return closed
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

// tried records an admitted request, and adds jitter to the next.
func (c *circuit) tried(now time.Time, chance float64) {
	pause := c.pause(now)
	c.step = pause*4/5 + time.Duration(chance*float64(pause)*2/5)
	c.probe = now.Add(c.step)
}

// Circuits are those that are open, the widest first, at most so many of them,
// and how many there are.
func (b *Breaker) Circuits(most int) (open []stores.Circuit, all int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	add := func(c *circuit, scope stores.Scope, namespace, tenant, place string) {
		if !c.open {
			return
		}
		path, _, _ := strings.Cut(place, "\n") // without what it is asked for
		told := stores.Circuit{Scope: scope, Namespace: namespace, Tenant: tenant, Path: path, Failures: c.failures, Since: c.since, ProbeAt: c.probe}
		if c.last != nil {
			told.Last = c.last.Error()
		}
		open = append(open, told)
	}
	add(&b.connection, stores.WholeServer, "", "", "")
	for name, n := range b.namespaces {
		add(&n.away, stores.StoreNamespace, name, "", "")
		add(&n.broken, stores.FailedPaths, name, "", "")
		for id, t := range n.tenants {
			add(&t.away, stores.Tenant, name, id, "")
			add(&t.broken, stores.FailedPaths, name, id, "")
			for place, p := range t.paths {
				add(p, stores.OnePath, name, id, place)
			}
		}
	}
	scopes := stores.Scopes()
	slices.SortFunc(open, func(x, y stores.Circuit) int {
		return cmp.Or(cmp.Compare(slices.Index(scopes, x.Scope), slices.Index(scopes, y.Scope)), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.Path, y.Path))
	})
	all = len(open)
	return open[:min(all, most)], all
}
