package akeyless

import (
	"context"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// stand is what a volume has as one identity.
type stand struct {
	group *group
	// bearer is who the volume logs in as.
	bearer bearer
	// holder has the credentials that were made for the volume, which it owes.
	holder   *holder
	readings *session.Answers[*reading]
}

// volume is what the provider knows of one volume.
type volume struct {
	id     string
	budget *budget.Budget
	owner  budget.Owner
	// doubts are the refusals that may not be the store's last word.
	doubts session.Doubts
	// inFiles are the items that the files were last made of.
	inFiles map[string]bool

	mu sync.Mutex
	stand
	// aside is of the identity before an edit of the class, until the new one
	// is answered.
	aside session.Aside[stand]
	// making are closed when what is being made for the volume is there, or
	// is not to be had.
	making []<-chan struct{}
}

func newVolume(id, namespace string, b *budget.Budget) *volume {
	v := &volume{id: id, budget: b, owner: budget.Owner{Namespace: namespace, Volume: id}}
	v.stand = v.nothing()
	return v
}

// nothing is what a volume has as a new identity.
func (v *volume) nothing() stand {
	return stand{holder: newHolder(v.budget, v.owner), readings: session.NewAnswers[*reading](v.budget, v.owner)}
}

// current is what the volume has as its present identity.
func (v *volume) current() stand {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stand
}

// answered is what the volume has as the identity that its files are of.
func (v *volume) answered() stand {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.aside.Kept(); s != nil {
		return *s
	}
	return v.stand
}

// identity is the volume's group, and who it logs in as.
func (v *volume) identity() (*group, bearer) {
	s := v.current()
	return s.group, s.bearer
}

func (v *volume) setIdentity(g *group, b bearer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.group, v.bearer = g, b
}

// owns tells whether a holder is one of the volume's.
func (v *volume) owns(h *holder) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := v.aside.Kept()
	return h == v.holder || kept != nil && h == kept.holder
}

// await notes that something is being made for the volume, and that nobody
// waits for it.
func (v *volume) await(ended <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.making = append(slices.DeleteFunc(v.making, isClosed), ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// made waits until nothing is being made for the volume any longer.
func (v *volume) made(ctx context.Context) error {
	v.mu.Lock()
	making := slices.Clone(v.making)
	v.mu.Unlock()
	for _, c := range making {
		select {
		case <-c:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "a producer still works on a credential for the volume, which is ended once it is there: %w", fault.Ended(ctx))
		}
	}
	return nil
}

// TakeDebts implements session.Volume.
func (v *volume) TakeDebts() []*minted {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := v.holder.takeAll()
	if s := v.aside.Kept(); s != nil {
		list = append(list, s.holder.takeAll()...)
	}
	return list
}

// takeStands gives up all that the volume has.
func (v *volume) takeStands() []stand {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := []stand{v.stand}
	if s := v.aside.Take(); s != nil {
		list = append(list, *s)
	}
	return list
}

// Owe implements session.Volume.
func (v *volume) Owe(list []*minted) { v.current().holder.giveBack(list) }
