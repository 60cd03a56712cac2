// Package budget bounds the memory that tenants can make the driver use: the contents of volumes,
// answers of stores, parsed classes, records.
//
// There is one Budget for a node. Each charge counts for the node, for the namespace of the pod
// that it is made for, and for the volume. If one of the three is full, the charge is refused with
// an error of that volume. No caller waits, and the budget evicts only caches, the oldest
// first.
package budget

import (
	"container/list"
	"fmt"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// Kind says what memory is used for. It is a label of metrics.
type Kind string

// The kinds of memory.
const (
	Contents Kind = "contents" // files in volumes
	Answers  Kind = "answers"  // answers of stores, while they are read and as long as they are needed
	Cache    Kind = "cache"    // answers and classes that can be read again
	Records  Kind = "records"  // saved state
)

// Kinds returns all kinds of memory.
func Kinds() []Kind { return []Kind{Contents, Answers, Cache, Records} }

// Limits are in bytes; 0 means no limit.
type Limits struct {
	Node      int64 // all volumes together
	Namespace int64 // the volumes of one namespace
	Volume    int64 // one volume
	// Records limits the saved state as well: it is in a tmpfs of its own.
	Records Share
}

// Share limits one kind of memory, in bytes; 0 means no limit.
type Share struct {
	Node      int64
	Namespace int64
}

// Owner is the volume that memory is charged to, and the namespace of its pod. Memory that several
// volumes of a namespace share has no Volume.
type Owner struct {
	Namespace string
	Volume    string
}

// Budget counts charges. A nil Budget refuses nothing.
type Budget struct {
	limits Limits

	mu         sync.Mutex
	node       int64
	kinds      map[Kind]int64
	namespaces map[string]int64
	records    map[string]int64 // the Records of each namespace
	volumes    map[Owner]int64
	caches     *list.List // of *Charge, the oldest first
	followers  []follower
}

// follower is called when the bytes of some kinds of memory change.
type follower struct {
	kinds []Kind
	step  int64
	told  int64
	tell  func(bytes int64)
}

// New makes an empty Budget.
func New(l Limits) *Budget {
	return &Budget{limits: l, kinds: map[Kind]int64{}, namespaces: map[string]int64{}, records: map[string]int64{}, volumes: map[Owner]int64{}, caches: list.New()}
}

// Charge is memory that the budget counts. Its methods are safe for concurrent use. A nil Budget
// makes nil Charges.
type Charge struct {
	budget  *Budget
	owner   Owner
	kind    Kind
	bytes   int64
	drop    func()        // of a cache
	element *list.Element // in caches; nil unless the charge is a live cache
	gone    bool
}

// Acquire charges n bytes. Its error has the reason TooLarge if the bytes can never fit, and else
// Exhausted, and names the level that is full and the setting that raises it.
func (b *Budget) Acquire(o Owner, k Kind, n int64) (*Charge, error) {
	if b == nil {
		return nil, nil
	}
	c := &Charge{budget: b, owner: o, kind: k}
	return c, c.Resize(n)
}

// Adopt charges n bytes that are in use already, whatever the limits. It is for volumes of an
// earlier process: the driver gives up nothing live for a limit, and accepts nothing new until
// there is space again.
func (b *Budget) Adopt(o Owner, k Kind, n int64) *Charge {
	if b == nil {
		return nil
	}
	c := &Charge{budget: b, owner: o, kind: k}
	c.Set(n)
	return c
}

// Follow calls tell with the total bytes of the kinds: now, and each time they have changed by step
// since. The charge waits for tell, which runs before the memory is allocated and must not use the
// Budget.
func (b *Budget) Follow(step int64, tell func(bytes int64), kinds ...Kind) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	f := follower{kinds: kinds, step: step, tell: tell}
	f.told = b.sum(kinds)
	tell(f.told)
	b.followers = append(b.followers, f)
}

// AcquireCache charges the contents of a cache. To make space the budget releases the charge and calls
// drop, which must drop the cached contents. The caller must not hold a lock that drop takes while
// it calls a method of Budget or Charge.
func (b *Budget) AcquireCache(o Owner, n int64, drop func()) (*Charge, error) {
	if b == nil {
		return nil, nil
	}
	c := &Charge{budget: b, owner: o, kind: Cache, drop: drop}
	if err := c.Resize(n); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !c.gone {
		c.element = b.caches.PushBack(c)
	}
	return c, nil
}

// Resize makes the charge n bytes. On an error the charge does not change.
func (c *Charge) Resize(n int64) error {
	if c == nil {
		return nil
	}
	b := c.budget
	for {
		dropped, err := b.resize(c, n)
		for _, drop := range dropped {
			drop()
		}
		if len(dropped) == 0 || err == nil {
			return err
		}
	}
}

// Set makes the charge n bytes whatever the limits, for memory that is in use already.
func (c *Charge) Set(n int64) {
	if c == nil {
		return
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if !c.gone {
		c.budget.add(c, n-c.bytes)
	}
}

// Bytes is the current charge.
func (c *Charge) Bytes() int64 {
	if c == nil {
		return 0
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	return c.bytes
}

// Used marks the cache of the charge as just used, so that the budget evicts other caches first.
func (c *Charge) Used() {
	if c == nil {
		return
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if c.element != nil {
		c.budget.caches.MoveToBack(c.element)
	}
}

// Release ends the charge. It may be called more than once.
func (c *Charge) Release() {
	if c == nil {
		return
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	c.release()
}

// release does Release. Its caller holds mu.
func (c *Charge) release() {
	c.budget.add(c, -c.bytes)
	c.gone = true
	if c.element != nil {
		c.budget.caches.Remove(c.element)
		c.element = nil
	}
}

// resize changes the charge, or releases caches whose eviction may help and returns their drops; the
// caller calls those and tries again.
func (b *Budget) resize(c *Charge, n int64) (dropped []func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.gone {
		return nil, nil
	}
	more := n - c.bytes
	if more <= 0 {
		b.add(c, more)
		return nil, nil
	}
	over, full := b.over(c, n)
	if !full {
		b.add(c, more)
		return nil, nil
	}
	if n <= over.limit {
		dropped = b.evict(c, over)
	}
	return dropped, over.refuse(c, n)
}

// level is one of the levels that can be full.
type level struct {
	name        string
	ofNamespace bool   // the owner's
	flag        string // that sets the limit
	also        string // what else limits it
	limit, used int64
	// counts reports whether a cache of another owner counts; nil for no cache.
	counts func(owner, other Owner) bool
}

// over returns the lowest level that has no space for the charge to become n bytes, if there is one.
func (b *Budget) over(c *Charge, n int64) (level, bool) {
	limits := b.limits
	if c.kind != Records {
		limits.Records = Share{}
	}
	if c.owner.Volume == "" {
		limits.Volume = 0
	}
	levels := [...]level{
		{name: "state of namespace", ofNamespace: true, flag: "--namespace-state-limit", limit: limits.Records.Namespace, used: b.records[c.owner.Namespace]},
		{name: "state of the node", flag: "--state-size-limit", limit: limits.Records.Node, used: b.kinds[Records]},
		{name: "volume", flag: "--volume-memory-limit", limit: limits.Volume, used: b.volumes[c.owner], counts: ofVolume},
		{name: "namespace", ofNamespace: true, flag: "--namespace-memory-limit", limit: limits.Namespace, used: b.namespaces[c.owner.Namespace], counts: ofNamespace},
		{name: "node", flag: "--memory-budget", also: " and the memory limit of the driver's container", limit: limits.Node, used: b.node, counts: ofNode},
	}
	for _, l := range levels {
		if l.limit > 0 && l.used-c.bytes+n > l.limit {
			return l, true
		}
	}
	return level{}, false
}

func ofVolume(owner, other Owner) bool    { return owner == other }
func ofNamespace(owner, other Owner) bool { return owner.Namespace == other.Namespace }
func ofNode(Owner, Owner) bool            { return true }

// evict releases the oldest cache of the level, except c itself.
func (b *Budget) evict(c *Charge, l level) []func() {
	if l.counts == nil { // no cache is in it
		return nil
	}
	for at := b.caches.Front(); at != nil; at = at.Next() {
		old, _ := at.Value.(*Charge)
		if old != c && l.counts(c.owner, old.owner) {
			old.release()
			return []func(){old.drop}
		}
	}
	return nil
}

func (l level) refuse(c *Charge, n int64) error {
	reason, name := fault.Exhausted, l.name
	if n > l.limit {
		reason = fault.TooLarge
	}
	if l.ofNamespace {
		name += " " + c.owner.Namespace
	}
	return fault.New(reason, "%d more bytes for %s do not fit the memory of the %s: %d of %d bytes are in use", n-c.bytes, c.kind, name, l.used, l.limit).
		WithHint("ask for less, or have the operator raise %s%s", setting.Name(l.flag), l.also)
}

// add counts n more bytes. Its caller holds mu.
func (b *Budget) add(c *Charge, n int64) {
	c.bytes += n
	b.node += n
	b.kinds[c.kind] += n
	count(b.namespaces, c.owner.Namespace, n)
	if c.kind == Records {
		count(b.records, c.owner.Namespace, n)
	}
	if c.owner.Volume != "" {
		count(b.volumes, c.owner, n)
	}
	for i := range b.followers {
		f := &b.followers[i]
		if now := b.sum(f.kinds); now >= f.told+f.step || now <= f.told-f.step {
			f.told = now
			f.tell(now)
		}
	}
}

func (b *Budget) sum(kinds []Kind) (n int64) {
	for _, k := range kinds {
		n += b.kinds[k]
	}
	return n
}

func count[K comparable](m map[K]int64, key K, n int64) {
	if m[key] += n; m[key] == 0 {
		delete(m, key)
	}
}

// Usage is the current use, and the limit of the node.
type Usage struct {
	ByKind map[Kind]int64
	Total  int64
	Limit  int64
}

// Usage returns the current use.
func (b *Budget) Usage() Usage {
	u := Usage{ByKind: map[Kind]int64{}}
	if b == nil {
		return u
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range Kinds() {
		u.ByKind[k] = b.kinds[k]
	}
	u.Total, u.Limit = b.node, b.limits.Node
	return u
}

// String formats the limits for logs.
func (l Limits) String() string {
	return fmt.Sprintf("node %d, namespace %d, volume %d bytes; of records node %d, namespace %d bytes", l.Node, l.Namespace, l.Volume, l.Records.Node, l.Records.Namespace)
}
