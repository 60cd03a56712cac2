package main

import (
	"context"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// rounds are of first publishes: the floor, the driver with a service account for each pod, and the
// driver with one for all, in turn, so that noise on the machine affects all alike; and, if there
// is one, a provider package alone. Every other round has floor and driver in the other order: work
// that Vault postpones while it serves the one, such as garbage collection, costs the other time.
type rounds struct {
	*node
	floor *floor
	class string
	// label parts the pods of these rounds from others of the class.
	label string
	// alone does the work of pods through a provider package, without kubelet's
	// calls, mounts, files and records; nil where that is not measured.
	alone func(context.Context, []kubelet.Pod) (time.Duration, error)
}

// measureFirst does the rounds on Vault.
func measureFirst(ctx context.Context, n *node, r *firstPublishes) error {
	f := newFloor(n.atOnce, vaultFloor(n.vault.Address))
	defer f.close()
	return rounds{n, f, steady, "first", nil}.run(ctx, r)
}

// run does a round that warms up the connections of either side and is not
// counted, and then those that are.
func (s rounds) run(ctx context.Context, r *firstPublishes) error {
	warm := &firstPublishes{}
	if err := s.round(ctx, warm, 0); err != nil {
		return err
	}
	for i := range s.config.rounds {
		if err := s.round(ctx, r, i+1); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
		say("round %d of %d: floor %.0f ms, driver %.0f ms, with one service account %.0f ms",
			i+1, s.config.rounds, r.Floor[i], r.Many.Wall[i], r.One.Wall[i])
	}
	r.Cold = warm.Many.Wall[0]
	return nil
}

func (s rounds) round(ctx context.Context, r *firstPublishes, number int) error {
	label := func(kind string) string { return fmt.Sprintf("%s-%s-%s-%d", s.class, s.label, kind, number) }
	bare := func() error { return s.bare(ctx, r, label("floor")) }
	many := func() error { return s.publishes(ctx, &r.Many, label("many"), s.config.pods) }
	one := func() error { return s.publishes(ctx, &r.One, label("one"), 1) }
	alone := func() error { return s.fetches(ctx, &r.Alone, label("alone")) }
	if number%2 == 1 {
		return inOrder(many, alone, bare, one)
	}
	return inOrder(bare, alone, many, one)
}

// counted does the work of new pods, and counts the requests to the store.
func (s rounds) counted(ctx context.Context, label string, work func(context.Context, []kubelet.Pod) (time.Duration, error)) (float64, requests, error) {
	pods := s.pods(label, s.class, s.config.pods)
	if err := s.waitUntilIdle(ctx); err != nil {
		return 0, requests{}, err
	}
	count, err := s.store.begin()
	if err != nil {
		return 0, requests{}, err
	}
	took, err := work(ctx, pods)
	if err != nil {
		return 0, requests{}, err
	}
	asked, err := count(ctx)
	return ms(took), asked, err
}

func (s rounds) bare(ctx context.Context, r *firstPublishes, label string) error {
	took, asked, err := s.counted(ctx, label, s.floor.run)
	if err != nil {
		return fmt.Errorf("the floor: %w", err)
	}
	r.Floor, r.FloorRequests = append(r.Floor, took), asked
	return nil
}

func (s rounds) fetches(ctx context.Context, p *publishes, label string) error {
	if s.alone == nil {
		return nil
	}
	took, asked, err := s.counted(ctx, label, s.alone)
	if err != nil {
		return fmt.Errorf("the provider package: %w", err)
	}
	p.Wall, p.Requests = append(p.Wall, took), asked
	return nil
}

func (s rounds) publishes(ctx context.Context, p *publishes, label string, accounts int) error {
	pods := s.pods(label, s.class, accounts)
	if err := s.waitUntilIdle(ctx); err != nil {
		return err
	}
	var took time.Duration
	cost, err := s.spending(ctx, func() (err error) { took, err = s.timedPublishes(ctx, pods); return err })
	if err != nil {
		return err
	}
	p.Requests, p.API = cost.Vault, cost.API
	p.Wall, p.CPU = append(p.Wall, ms(took)), append(p.CPU, cost.CPU)
	return s.unpublishGood(ctx, pods)
}
