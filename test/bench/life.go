package main

import (
	"context"
	"errors"
	"fmt"
	"time"

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
func measureLife(ctx context.Context, w *world, r *results) (err error) {
	if err := w.api.Collect(ctx); err != nil {
		return err
	}
	n := w.apiNode("life")
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	for i := range lives + 1 {
		l := &r.Life
		if i == 0 {
			l = &life{}
		}
		if err := n.live(ctx, n.pods(fmt.Sprintf("life-%d", i), steady, w.config.pods), l); err != nil {
			return err
		}
	}
	say("whole life of %d pods: %.0f ms of the driver's CPU time", w.config.pods, median(r.Life.totals()))
	return nil
}

// live publishes, republishes and unpublishes the pods, and records the CPU time of each part.
func (n *node) live(ctx context.Context, pods []kubelet.Pod, l *life) error {
	if err := n.waitUntilIdle(ctx); err != nil {
		return err
	}
	span, err := n.begin()
	if err != nil {
		return err
	}
	var past time.Duration
	for _, part := range []struct {
		cpu *[]float64
		do  func() error
	}{
		{&l.Publish, func() error { _, err := n.publish(ctx, pods); return err }},
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
		so := u.CPU - span.cpu
		*part.cpu = append(*part.cpu, ms(so-past))
		past = so
	}
	l.Vault, l.API, err = span.requests(ctx)
	return err
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

// span is a stretch of time in which requests and CPU time are counted.
type span struct {
	node  *node
	store func(context.Context) (requests, error)
	api   map[string]int
	cpu   time.Duration
}

// begin starts to count. A driver that does not run has used nothing.
func (n *node) begin() (*span, error) {
	count, err := n.store.begin()
	if err != nil {
		return nil, err
	}
	api, err := n.api.Requests()
	if err != nil {
		return nil, err
	}
	s := &span{node: n, store: count, api: api}
	if n.driver.Alive() == nil {
		u, err := n.driver.Usage()
		if err != nil {
			return nil, err
		}
		s.cpu = u.CPU
	}
	return s, nil
}

// requests are those since the beginning.
func (s *span) requests(ctx context.Context) (requests, map[string]int, error) {
	r, err := s.store(ctx)
	if err != nil {
		return r, nil, err
	}
	api, err := s.node.apiSince(s.api)
	return r, api, err
}

// end returns the requests, and the driver's CPU time in milliseconds.
func (s *span) end(ctx context.Context) (requests, map[string]int, float64, error) {
	u, err := s.node.driver.Usage()
	if err != nil {
		return requests{}, nil, 0, err
	}
	r, api, err := s.requests(ctx)
	return r, api, ms(u.CPU - s.cpu), err
}
