package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

// lives is how often a whole life is measured.
const lives = 3

// life is the driver's CPU time for the whole life of all pods, in milliseconds, one value for each
// measurement. Each part ends when its background work is done: statuses are written or deleted,
// Vault tokens are revoked.
type life struct {
	Publish   []float64 `json:"publishMS"`
	Status    []float64 `json:"statusMS"`
	Republish []float64 `json:"republishMS"`
	Unpublish []float64 `json:"unpublishMS"`
	// Vault and API are the requests of the last life.
	Vault requests       `json:"requestsToVault"`
	API   map[string]int `json:"requestsToAPIServer"`
}

func (l life) totals() []float64 {
	sums := make([]float64, len(l.Publish))
	for i := range sums {
		sums[i] = l.Publish[i] + l.Status[i] + l.Republish[i] + l.Unpublish[i]
	}
	return sums
}

// measureLife lets all pods live, one set after another. The first set warms the
// driver up and is not counted.
func measureLife(ctx context.Context, n *node, r *results) error {
	for i := range lives + 1 {
		l := &r.Life
		if i == 0 {
			l = &life{}
		}
		if err := n.live(ctx, n.pods(fmt.Sprintf("life-%d", i), steady, n.config.pods), l); err != nil {
			return err
		}
	}
	say("whole life of %d pods: %.0f ms of the driver's CPU time", n.config.pods, median(r.Life.totals()))
	return nil
}

// live publishes, republishes and unpublishes the pods, and records the CPU time of each part.
func (n *node) live(ctx context.Context, pods []kubelet.Pod, l *life) error {
	if err := n.waitUntilIdle(ctx); err != nil {
		return err
	}
	s, err := n.spending(ctx, func() error { return n.liveParts(ctx, pods, l) })
	l.Vault, l.API = s.Vault, s.API
	return err
}

func (n *node) liveParts(ctx context.Context, pods []kubelet.Pod, l *life) error {
	past, err := n.driver.Usage()
	if err != nil {
		return err
	}
	for _, part := range []struct {
		cpu *[]float64
		do  func() error
	}{
		{&l.Publish, func() error { return n.publish(ctx, pods) }},
		{&l.Status, func() error { return n.waitForStatuses(ctx, len(pods)) }},
		{&l.Republish, func() error { _, err := n.republishAll(ctx, pods, 1); return err }},
		{&l.Unpublish, func() error {
			return errors.Join(n.unpublish(ctx, pods), n.waitUntilIdle(ctx), n.waitForStatuses(ctx, 0))
		}},
	} {
		if err := part.do(); err != nil {
			return err
		}
		u, err := n.driver.Usage()
		if err != nil {
			return err
		}
		*part.cpu = append(*part.cpu, ms(u.CPU-past.CPU))
		past = u
	}
	return nil
}

func (r *results) lifeRow() row {
	l := r.Life
	total := median(l.totals())
	return row{
		What: fmt.Sprintf("Driver's CPU time for the whole life of %d pods, as many service accounts", r.Size.Pods),
		Measured: fmt.Sprintf("%.0f ms: publish %.0f, status %.0f, republish %.0f, unpublish with revocation and status %.0f; %s; %s to the API server",
			total, median(l.Publish), median(l.Status), median(l.Republish), median(l.Unpublish), l.Vault, verbs(l.API)),
		Target: fmt.Sprintf("<= %d ms", targetLife), Met: total <= targetLife,
	}
}

type podList = []kubelet.Pod

// spent is what some work needed.
type spent struct {
	Vault requests       `json:"requestsToVault"`
	API   map[string]int `json:"requestsToAPIServer"`
	CPU   float64        `json:"driverCPUMS"`
}

// spending works, and counts the requests to the store and the API server meanwhile, and the driver's CPU
// time. A driver that does not run yet has used nothing.
func (n *node) spending(ctx context.Context, work func() error) (s spent, err error) {
	count, err := n.store.begin()
	if err != nil {
		return s, err
	}
	api, err := n.api.Requests()
	if err != nil {
		return s, err
	}
	var before, after driver.Usage
	if n.driver.Alive() == nil {
		if before, err = n.driver.Usage(); err != nil {
			return s, err
		}
	}
	err = inOrder(
		work,
		func() (err error) { after, err = n.driver.Usage(); return err },
		func() (err error) { s.Vault, err = count(ctx); return err },
		func() (err error) { s.API, err = n.apiSince(api); return err },
	)
	s.CPU = ms(after.CPU - before.CPU)
	return s, err
}
