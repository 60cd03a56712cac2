package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// synced compares publishes of a class that has a template and a Kubernetes Secret with those of the
// same class without, on one driver, in turn. The sets with the same index were measured right after
// each other, and are compared as those of observed.
type synced struct {
	Without []float64 `json:"withoutCPUMS"`
	With    []float64 `json:"withCPUMS"`
	// API is the requests about the Secret, of all sets with one.
	API map[string]int `json:"requestsToAPIServer"`
}

// measureSynced lets sets of pods be published. The first of each warms the driver up and is not
// counted.
func measureSynced(ctx context.Context, w *world, r *results) (err error) {
	if err := w.api.Collect(ctx); err != nil {
		return err
	}
	n := w.apiNode("synced")
	n.args = append(n.args, "--sync-secrets")
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	before, err := w.api.Requests()
	if err != nil {
		return err
	}
	s := &r.Synced
	for i := range 2*w.rounds + 1 {
		order := []string{steady, made}
		if i%2 == 1 { // what the one leaves to collect, the other pays for
			slices.Reverse(order)
		}
		for _, class := range order {
			cpu, err := n.publishedCPU(ctx, fmt.Sprintf("synced-%s-%d", class, i), class)
			if err != nil {
				return err
			}
			switch {
			case i == 0:
			case class == made:
				s.With = append(s.With, cpu)
			default:
				s.Without = append(s.Without, cpu)
			}
		}
	}
	since, err := w.apiSince(before)
	if err != nil {
		return err
	}
	s.API = map[string]int{}
	for what, count := range since {
		if what == "secret look" || what == "secret apply" {
			s.API[what] = count
		}
	}
	say("%d publishes with a template and a Secret: %.1f ms of CPU time, without %.1f ms", w.config.pods, median(s.With), median(s.Without))
	return nil
}

// publishedCPU is the driver's CPU time for the publishes of a set of pods alone.
func (n *node) publishedCPU(ctx context.Context, label, class string) (float64, error) {
	pods := n.pods(label, class, n.config.pods)
	if err := errors.Join(n.waitUntilIdle(ctx), n.waitForStatuses(ctx, 0)); err != nil {
		return 0, err
	}
	before, err := n.driver.Usage()
	if err != nil {
		return 0, err
	}
	if _, err := n.publish(ctx, pods); err != nil {
		return 0, err
	}
	after, err := n.driver.Usage()
	if err != nil {
		return 0, err
	}
	return ms(after.CPU - before.CPU), errors.Join(n.check(pods, "1"), n.unpublish(ctx, pods))
}

func (r *results) syncedRow() row {
	s := r.Synced
	all := more(s.With, s.Without)
	return row{
		What: fmt.Sprintf("%d first publishes of a class with a template and a Kubernetes Secret, against the class without, %d sets of each", r.Size.Pods, len(s.With)),
		Measured: fmt.Sprintf("CPU time %+.1f %% (%s), %.0f against %.0f ms; %s in all sets",
			median(all), spreadText(all), median(s.With), median(s.Without), verbs(s.API)),
		Target: fmt.Sprintf("<= %.0f %%", targetSynced),
		Met:    median(all) <= targetSynced,
	}
}
