package main

import (
	"context"
	"fmt"
)

// measureFirst does the rounds of first publishes: the floor, the driver with a
// service account for each pod, and the driver with one for all, in turn, so
// that noise on the machine hits all three alike. A round before them warms up
// the connections of either side, and is not counted.
func measureFirst(ctx context.Context, n *node, r *results) error {
	f := newFloor(n.vault.Address, n.atOnce)
	defer f.close()
	warm := &results{}
	if err := round(ctx, n, f, warm, 0); err != nil {
		return err
	}
	for i := range n.rounds {
		if err := round(ctx, n, f, r, i+1); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
		first := &r.First
		say("round %d of %d: floor %.0f ms, driver %.0f ms, with one service account %.0f ms",
			i+1, n.rounds, first.Floor[i], first.Many.Wall[i], first.One.Wall[i])
	}
	r.First.Cold = warm.First.Many.Wall[0]
	return nil
}

func round(ctx context.Context, n *node, f *floor, r *results, number int) error {
	if err := floorRound(ctx, n, f, &r.First, fmt.Sprintf("floor-%d", number)); err != nil {
		return fmt.Errorf("the floor: %w", err)
	}
	if err := publishRound(ctx, n, &r.First.Many, fmt.Sprintf("many-%d", number), n.config.pods); err != nil {
		return err
	}
	return publishRound(ctx, n, &r.First.One, fmt.Sprintf("one-%d", number), 1)
}

func floorRound(ctx context.Context, n *node, f *floor, first *firstPublishes, label string) error {
	pods := n.pods(label, steady, n.config.pods)
	if err := n.settle(ctx); err != nil {
		return err
	}
	mark, err := n.vault.Mark()
	if err != nil {
		return err
	}
	took, err := f.run(ctx, pods)
	if err != nil {
		return err
	}
	first.Floor = append(first.Floor, ms(took))
	first.FloorRequests, err = n.requestsSince(ctx, mark)
	return err
}

func publishRound(ctx context.Context, n *node, p *publishes, label string, accounts int) error {
	pods := n.pods(label, steady, accounts)
	if err := n.settle(ctx); err != nil {
		return err
	}
	span, err := n.begin()
	if err != nil {
		return err
	}
	took, err := n.publish(ctx, pods)
	if err != nil {
		return err
	}
	var cpu float64
	if p.Requests, p.API, cpu, err = span.end(ctx); err != nil {
		return err
	}
	p.Wall, p.CPU = append(p.Wall, ms(took)), append(p.CPU, cpu)
	if err := n.check(pods, "1"); err != nil {
		return err
	}
	return n.unpublish(ctx, pods)
}
