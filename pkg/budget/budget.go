// Package budget bounds the memory that what tenants write can make the driver
// hold: the contents of volumes, answers of stores, parsed classes, records.
//
// There is one Budget for a node. Each charge counts for the node, for the
// namespace of the pod that it is made for, and for the volume. Where one of
// the three is full the charge is refused with an error of that volume: nobody
// waits and nobody else is evicted. Only caches give way, the oldest first.
package budget

import (
	"container/list"
	"fmt"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// Kind is what memory is used for. It is a label of metrics.
type Kind string

// The kinds of memory.
const (
	Contents Kind = "contents" // files in volumes
	Answers  Kind = "answers"  // answers of stores that are being read or are needed again
	Cache    Kind = "cache"    // what can be had again: answers and classes that are kept
	Records  Kind = "records"  // the state that outlives the process
)

// Kinds are all kinds of memory.
func Kinds() []Kind { return []Kind{Contents, Answers, Cache, Records} }

// Limits are in bytes; 0 stands for none.
type Limits struct {
	Node      int64 // all volumes together
	Namespace int64 // the volumes of one namespace
	Volume    int64 // one volume
	// Records limits the state besides: it lies in a tmpfs of its own.
	Records Share
}

// Share limits one kind of memory, in bytes; 0 stands for none.
type Share struct {
	Node      int64
	Namespace int64
}

// Owner is the volume that memory is charged to, and the namespace of its pod.
// What the volumes of a namespace share has no Volume.
type Owner struct {
	Namespace string
	Volume    string
}

// Budget counts. A nil Budget refuses nothing.
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

// follower is told of what some kinds of memory come to.
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

// Charge is memory that is accounted for. Its methods may be called at once by
// several goroutines. A nil Charge is one of a nil Budget.
type Charge struct {
	budget *Budget
	owner  Owner
	kind   Kind
	bytes  int64
	drop   func()        // of a cache
	place  *list.Element // in caches; nil where the charge is none, or is gone
	gone   bool
}

// Acquire charges n bytes. Its error has the reason TooLarge where the bytes can
// never fit, and else Exhausted, and names the level that is full and the
// setting that raises it.
func (b *Budget) Acquire(o Owner, k Kind, n int64) (*Charge, error) {
	if b == nil {
		return nil, nil
	}
	c := &Charge{budget: b, owner: o, kind: k}
	return c, c.Resize(n)
}

// Adopt charges n bytes that are there already, whatever the limits. It is for
// what an earlier process has left: nothing live is given up for a limit, and
// nothing new is taken on until there is room again.
func (b *Budget) Adopt(o Owner, k Kind, n int64) *Charge {
	if b == nil {
		return nil
	}
	c := &Charge{budget: b, owner: o, kind: k}
	c.Set(n)
	return c
}

// Follow calls tell with the bytes that the kinds come to together: now, and
// whenever they have moved by step since. It is called in the way of the charge,
// before what it is for is allocated, and must not use the Budget.
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

// Keep charges what is kept in a cache. When room is needed the budget releases
// the charge and calls drop, which must forget what was kept. No lock that drop
// takes may be held while a method of Budget or Charge is called.
func (b *Budget) Keep(o Owner, n int64, drop func()) (*Charge, error) {
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
		c.place = b.caches.PushBack(c)
	}
	return c, nil
}

// Resize makes the charge n bytes. After an error it is what it was before.
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

// Set makes the charge n bytes whatever the limits, for what is there already.
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

// Bytes is what is charged now.
func (c *Charge) Bytes() int64 {
	if c == nil {
		return 0
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	return c.bytes
}

// Used tells that what the charge is for was used just now, so that other
// caches give way first.
func (c *Charge) Used() {
	if c == nil {
		return
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if c.place != nil {
		c.budget.caches.MoveToBack(c.place)
	}
}

// Release gives the memory back. It may be called more than once.
func (c *Charge) Release() {
	if c == nil {
		return
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	c.release()
}

// release is called with mu held.
func (c *Charge) release() {
	c.budget.add(c, -c.bytes)
	c.gone = true
	if c.place != nil {
		c.budget.caches.Remove(c.place)
		c.place = nil
	}
}

// resize changes the charge, or releases caches whose going may help and
// returns their drops; the caller calls those and tries again.
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
	over := b.over(c, n)
	if over == nil {
		b.add(c, more)
		return nil, nil
	}
	if n <= over.limit {
		dropped = b.evict(c, over)
	}
	return dropped, over.refuse(c, n)
}

// level is one of the three that is full.
type level struct {
	name    string
	setting string
	limit   int64
	used    int64
	holds   func(Owner) bool // whose caches are in it; nil for none
}

// over is the level that has no room for the charge to become n bytes, the
// closest first; nil where there is room.
func (b *Budget) over(c *Charge, n int64) *level {
	levels := []level{
		{"volume", setting.Name("--volume-memory-limit"), b.limits.Volume, b.volumes[c.owner], func(o Owner) bool { return o == c.owner }},
		{"namespace " + c.owner.Namespace, setting.Name("--namespace-memory-limit"), b.limits.Namespace, b.namespaces[c.owner.Namespace], func(o Owner) bool { return o.Namespace == c.owner.Namespace }},
		{"node", setting.Name("--memory-budget") + " and the memory limit of the driver's container", b.limits.Node, b.node, func(Owner) bool { return true }},
	}
	if c.owner.Volume == "" {
		levels = levels[1:]
	}
	if c.kind == Records {
		levels = append([]level{
			{"state of namespace " + c.owner.Namespace, setting.Name("--namespace-state-limit"), b.limits.Records.Namespace, b.records[c.owner.Namespace], nil},
			{"state of the node", setting.Name("--state-size-limit"), b.limits.Records.Node, b.kinds[Records], nil},
		}, levels...)
	}
	for i := range levels {
		l := &levels[i]
		if l.limit > 0 && l.used-c.bytes+n > l.limit {
			return l
		}
	}
	return nil
}

// evict releases the oldest cache of the level, other than c itself.
func (b *Budget) evict(c *Charge, l *level) []func() {
	if l.holds == nil { // no cache is in it
		return nil
	}
	for at := b.caches.Front(); at != nil; at = at.Next() {
		old, _ := at.Value.(*Charge)
		if old != c && l.holds(old.owner) {
			old.release()
			return []func(){old.drop}
		}
	}
	return nil
}

func (l *level) refuse(c *Charge, n int64) error {
	reason := fault.Exhausted
	if n > l.limit {
		reason = fault.TooLarge
	}
	return fault.New(reason, "%d more bytes for %s do not fit the memory of the %s: %d of %d bytes are in use", n-c.bytes, c.kind, l.name, l.used, l.limit).
		WithHint("ask for less, or have the operator raise %s", l.setting)
}

// add counts. It is called with mu held.
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

// Usage is what is charged now, and the limit of the node.
type Usage struct {
	ByKind map[Kind]int64
	Total  int64
	Limit  int64
}

// Usage tells what is charged now.
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

// String is for logs.
func (l Limits) String() string {
	return fmt.Sprintf("node %d, namespace %d, volume %d bytes; of records node %d, namespace %d bytes", l.Node, l.Namespace, l.Volume, l.Records.Node, l.Records.Namespace)
}
