package akeyless

import (
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/budget"
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

// TakeDebts implements session.Volume.
func (v *volume) TakeDebts() []*minted { return v.holder.takeAll() }

// Owe implements session.Volume.
func (v *volume) Owe(list []*minted) { v.holder.giveBack(list) }
