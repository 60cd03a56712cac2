package kube

import (
	"context"
	"time"
)

// Pause is the pause between attempts.
var Pause = pause

// SetTime gives a source, which does not run yet, another clock.
func (s *Source) SetTime(now func() time.Time, wait func(ctx context.Context, d time.Duration, wake <-chan struct{})) {
	s.now, s.wait = now, wait
}

// Rate gives the limit of requests per second.
func (s *Source) Rate() float32 { return s.client.rest.GetRateLimiter().QPS() }
