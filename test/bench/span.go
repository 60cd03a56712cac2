package main

import (
	"context"
	"time"

	"github.com/mayfly-csi/mayfly/test/kubelet"
)

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
