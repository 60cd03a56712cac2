package vault

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// volume is what the provider knows of one volume. It owes the Vault tokens
// that were logged in for it alone.
type volume struct {
	id     string
	budget *budget.Budget
	owner  budget.Owner

	mu     sync.Mutex
	pod    identity.Pod
	group  *group
	holder *holder
	// readings are the last answers to what the class asks.
	readings *session.Answers[*reading]
	// doubts are the refusals that may not be the store's last word.
	doubts session.Doubts
	// aside is of the identity before an edit of the class, until the new one
	// is answered; answered is the class of the last such answer, without its
	// objects.
	aside    session.Aside[stand]
	answered *spec
	// inFiles are the requests that the files were last made of.
	inFiles map[string]bool
	// retired are tokens of earlier logins, which live out their leases.
	retired []*token
}

func newVolume(id, namespace string, b *budget.Budget) *volume {
	v := &volume{id: id, budget: b, owner: budget.Owner{Namespace: namespace, Volume: id}}
	v.holder, v.readings = newHolder(b, v.owner), v.noAnswers()
	return v
}

func (v *volume) noAnswers() *session.Answers[*reading] {
	return session.NewAnswers[*reading](v.budget, v.owner)
}

func (v *volume) currentGroup() *group {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.group
}

// answers are those that the volume had as its present identity.
func (v *volume) answers() *session.Answers[*reading] {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.readings
}

// forget drops the answers to what neither the class nor the files are of.
func (v *volume) forget(s *spec) {
	keep := s.ids()
	maps.Copy(keep, v.inFiles)
	v.holder.forget(keep)
	v.answers().Retain(keep)
}

// retire gives up the volume's identity for another one. What was leased
// under the old stays valid until it ends or the volume is released, because
// the files still hold it.
func (v *volume) retire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = append(v.retired, v.holder.takeTokens()...)
	v.readings.Close()
	v.group, v.readings = nil, v.noAnswers()
}

// prune forgets the retired tokens that are over.
func (v *volume) prune(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = slices.DeleteFunc(v.retired, func(t *token) bool { return !t.alive(now) })
}

// TakeDebts implements session.Volume.
func (v *volume) TakeDebts() []*token {
	v.mu.Lock()
	defer v.mu.Unlock()
	tokens := append(v.holder.takeTokens(), v.retired...)
	if s := v.aside.Kept(); s != nil {
		tokens = append(tokens, s.holder.takeTokens()...)
	}
	v.retired = nil
	return tokens
}

// Owe implements session.Volume.
func (v *volume) Owe(tokens []*token) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = append(v.retired, tokens...)
}
