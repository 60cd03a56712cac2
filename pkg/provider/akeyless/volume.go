package akeyless

import (
	"context"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// volume is what the provider knows of one volume. It owes the credentials
// that were made for it.
type volume struct {
	id       string
	holder   *holder
	readings *session.Answers[*reading]
	// doubts are the refusals that may not be the store's last word.
	doubts session.Doubts

	mu     sync.Mutex
	group  *group
	bearer bearer
	// making are closed when what is being made for the volume is there, or
	// is not to be had.
	making []<-chan struct{}
}

func newVolume(id, namespace string, b *budget.Budget) *volume {
	owner := budget.Owner{Namespace: namespace, Volume: id}
	return &volume{id: id, holder: newHolder(b, owner), readings: session.NewAnswers[*reading](b, owner)}
}

// identity is the volume's group, and who it logs in as.
func (v *volume) identity() (*group, bearer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.group, v.bearer
}

func (v *volume) setIdentity(g *group, b bearer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.group, v.bearer = g, b
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
			return fault.New(fault.Timeout, "a producer still works on a credential for the volume, which is ended once it is there: %w", session.Ended(ctx))
		}
	}
	return nil
}

// TakeDebts implements session.Volume.
func (v *volume) TakeDebts() []*minted { return v.holder.takeAll() }

// Owe implements session.Volume.
func (v *volume) Owe(list []*minted) { v.holder.giveBack(list) }
