package volume

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// errUnpublished is the cause that ends work on a volume that goes away.
var errUnpublished = errors.New("the volume is being unpublished")

// errNotLive is why a recorded volume is let go at the start.
var errNotLive = errors.New("its tmpfs is not mounted")

// entry is one volume that this process knows. Whoever holds the lock may use
// rec and reason; the fields below them have their own mutex.
type entry struct {
	lock chan struct{} // capacity 1: full while somebody works on the volume
	rec  *Record
	// warned is the edition of the class whose warnings were told.
	warned string
	// reason is why the last refresh failed; empty if it did not.
	reason fault.Reason
	// failing tells whether the last refresh failed.
	failing atomic.Bool

	mu      sync.Mutex
	gone    bool                    // no longer in the table; look the id up again
	leaving int                     // unpublishes under way or waiting
	cancel  context.CancelCauseFunc // ends the work that holds the lock
	fresh   bool                    // the next refresh must ask the store itself
	asked   int                     // how often somebody wanted that
	edit    *string                 // the class's version of which news came since the last refresh began
	class   class.Ref               // the class that is retained for the volume
	news    news                    // what the record is to learn
	heard   handed                  // what kubelet passed last
	where   Where                   // the next refresh goes
	known   *Record                 // what of rec others may ask for; nil before the first payload
	first   *firstTry               // the publish that is under way; nil for none
}

func newEntry(rec *Record) *entry {
	return &entry{lock: make(chan struct{}, 1), rec: rec}
}

// begin takes the lock for work that an unpublish may cut short. The caller
// must call the func that it returns.
func (e *entry) begin(ctx context.Context) (context.Context, func(), error) {
	select {
	case e.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	work, cancel := context.WithCancelCause(ctx)
	e.mu.Lock()
	e.cancel = cancel
	if e.leaving > 0 {
		cancel(errUnpublished)
	}
	e.mu.Unlock()
	return work, func() {
		e.mu.Lock()
		e.cancel = nil
		e.mu.Unlock()
		cancel(nil)
		<-e.lock
	}, nil
}

// leave cuts running work short and takes the lock for the unpublish.
func (e *entry) leave(ctx context.Context) (func(), error) {
	e.mu.Lock()
	e.leaving++
	if e.cancel != nil {
		e.cancel(errUnpublished)
	}
	e.mu.Unlock()
	done := func() {
		e.mu.Lock()
		e.leaving--
		e.mu.Unlock()
	}
	select {
	case e.lock <- struct{}{}:
		return func() { done(); <-e.lock }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}

func (e *entry) isGone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// askFresh is somebody's wish.
func (e *entry) askFresh() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fresh = true
	e.asked++
}

// askEdited is told what the class's version is, empty for one that cannot be
// used. It answers whether that concerns a live volume: the one whose payload
// that version made has nothing to gain. Of a volume that is being published
// the end of that tells.
func (e *entry) askEdited(ref class.Ref, version string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.class != ref || e.known != nil && e.known.madeBy(version) && !e.failing.Load() {
		return false
	}
	e.edit = &version
	return e.known != nil
}

// editedBeside tells whether news came of another version of the class than
// the one that the record's payload was made by.
func (e *entry) editedBeside(rec *Record) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.edit != nil && rec.madeBy(*e.edit) {
		e.edit = nil
	}
	return e.edit != nil
}

// takeFresh begins a refresh. How often was asked tells it at its end whether
// somebody has asked meanwhile.
func (e *entry) takeFresh() (fresh bool, asked int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh = e.fresh || e.edit != nil
	e.fresh, e.edit = false, nil
	return fresh, e.asked
}

// keepFresh has the next try of a failed refresh ask the store itself too.
func (e *entry) keepFresh() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fresh = true
}

func (e *entry) timesAsked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

// joinClass notes which class is retained; it tells whether that is new.
func (e *entry) joinClass(ref class.Ref) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.class == ref {
		return false
	}
	e.class = ref
	return true
}

// leaveClass marks the entry gone, and gives back the class that was retained.
func (e *entry) leaveClass() (class.Ref, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	ref := e.class
	e.class = class.Ref{}
	return ref, ref != class.Ref{}
}

// tryLock takes the lock if nobody has it.
func (e *entry) tryLock() bool {
	select {
	case e.lock <- struct{}{}:
		return true
	default:
		return false
	}
}

func (e *entry) unlock() { <-e.lock }
