package main

import (
	"context"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
)

// rounds are of first publishes: the floor, the driver with a service account
// for each pod, and the driver with one for all, in turn, so that noise on the
// machine hits all alike; between them, where there is one, a provider package
// alone. Every other round has floor and driver in the
// other order: what Vault puts off while it serves the one, such as collecting
// its garbage, is paid for by the other.
type rounds struct {
	*node
	floor *floor
	class string
	// label parts the pods of these rounds from others of the class.
	label string
	// alone is nil where there is none.
	alone *akeyless.Provider
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
	order := []func() error{bare, alone, many, one}
	if number%2 == 1 {
		order = []func() error{many, alone, bare, one}
	}
	for _, do := range order {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

func (s rounds) bare(ctx context.Context, r *firstPublishes, label string) error {
	pods := s.pods(label, s.class, s.config.pods)
	if err := s.settle(ctx); err != nil {
		return err
	}
	count, err := s.store.begin()
	if err != nil {
		return err
	}
	took, err := s.floor.run(ctx, pods)
	if err != nil {
		return fmt.Errorf("the floor: %w", err)
	}
	r.Floor = append(r.Floor, ms(took))
	r.FloorRequests, err = count(ctx)
	return err
}

func (s rounds) publishes(ctx context.Context, p *publishes, label string, accounts int) error {
	pods := s.pods(label, s.class, accounts)
	if err := s.settle(ctx); err != nil {
		return err
	}
	span, err := s.begin()
	if err != nil {
		return err
	}
	took, err := s.publish(ctx, pods)
	if err != nil {
		return err
	}
	var cpu float64
	if p.Requests, p.API, cpu, err = span.end(ctx); err != nil {
		return err
	}
	p.Wall, p.CPU = append(p.Wall, ms(took)), append(p.CPU, cpu)
	if err := s.check(pods, "1"); err != nil {
		return err
	}
	return s.unpublish(ctx, pods)
}

// fetches are the same through the provider package: without kubelet's calls,
// mounts, files and records.
func (s rounds) fetches(ctx context.Context, p *publishes, label string) error {
	if s.alone == nil {
		return nil
	}
	pods := s.pods(label, s.class, s.config.pods)
	asked, got := make([]provider.Request, len(pods)), make([]*provider.Payload, len(pods))
	for i, pod := range pods {
		var err error
		if asked[i], err = fetchRequest(pod, s.kubelet.Target(pod), akeyless.Name, akeylessParameters(s.class, s.akeyless.URL())); err != nil {
			return err
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	count, err := s.store.begin()
	if err != nil {
		return err
	}
	work, fetching := errgroup.WithContext(ctx)
	work.SetLimit(s.atOnce)
	began := time.Now()
	for i := range asked {
		work.Go(func() (err error) {
			got[i], err = s.alone.Fetch(fetching, asked[i])
			return err
		})
	}
	err = work.Wait()
	p.Wall = append(p.Wall, ms(time.Since(began)))
	if err != nil {
		return fmt.Errorf("the provider package: %w", err)
	}
	if p.Requests, err = count(ctx); err != nil {
		return err
	}
	for i, payload := range got {
		if have, want := files(payload), wanted(s.class, "1"); !maps.Equal(have, want) {
			return fmt.Errorf("the provider package gave pod %s %v, not %v", pods[i].Name, have, want)
		}
		if err := s.alone.Release(ctx, asked[i].Volume); err != nil {
			return err
		}
	}
	return nil
}
