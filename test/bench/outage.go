package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// outageInterval gives each volume several refreshes that are due while the store is unavailable.
func (c config) outageInterval() time.Duration {
	return max(c.outage/6, time.Second).Truncate(time.Second)
}

// outageVolumes are a tenth more than the pods otherwise: as many as a node
// has by Kubernetes' default.
func (c config) outageVolumes() int { return c.pods + c.pods/10 }

// measureOutage has a node's volumes live through a Vault that answers 503,
// while both secrets are changed in it.
func measureOutage(ctx context.Context, n *node, r *results) error {
	o := &r.Outage
	o.Volumes, o.Interval = n.outageVolumes(), ms(n.outageInterval())
	o.Accounts = max(1, o.Volumes/10)
	pods := n.somePods(o.Volumes, "outage", cutOff, o.Accounts)
	if err := n.publish(ctx, pods); err != nil {
		return err
	}
	if err := n.check(pods, "1"); err != nil {
		return err
	}
	say("Vault answers 503 for %s, to %d volumes with an interval of %s", n.outage, o.Volumes, n.outageInterval())
	s, err := n.spending(ctx, func() error { return n.cut(ctx, o, pods) })
	if err != nil {
		return err
	}
	o.Vault, o.CPU = s.Vault, s.CPU
	say("outage: %d requests, at most %d in a second; all fresh %.2f s after its end", o.Requests, o.Most, o.AllFresh/1000)
	return n.unpublish(ctx, pods)
}

// cut is the outage itself. The volumes must keep their content until its end; a value written
// meanwhile then shows that they are refreshed.
func (n *node) cut(ctx context.Context, o *outage, pods podList) error {
	began := time.Now()
	n.gate.Seal()
	err := inOrder(
		func() error { return pause(ctx, began.Add(n.outage/2)) },
		func() error { return n.put(ctx, cutOff, "2") },
		func() error { return pause(ctx, began.Add(n.outage)) },
		func() error { return n.check(pods, "1") },
	)
	back, turned := time.Now(), n.gate.Unseal()
	if err != nil {
		return err
	}
	o.count(began, back, turned)
	if o.Requests == 0 {
		return errors.New("no request was made in the whole outage, so nobody noticed it")
	}
	if err := n.waitNew(ctx, 4*n.outageInterval()+30*time.Second, pods, "2"); err != nil {
		return fmt.Errorf("after Vault's return: %w", err)
	}
	o.AllFresh = ms(time.Since(back))
	return nil
}

// count adds up the requests that reached the store.
func (o *outage) count(began, back time.Time, turned []time.Time) {
	o.Lasted, o.Requests = ms(back.Sub(began)), len(turned)
	most, at := mostWithin(turned, time.Second)
	o.Most = most
	if most == 0 {
		return
	}
	o.MostAt = ms(at.Sub(began))
	// The beginning is counted separately: the driver does not know of the outage before requests
	// fail.
	for i, t := range turned {
		if t.Sub(turned[0]) >= time.Second {
			o.MostLater, _ = mostWithin(turned[i:], time.Second)
			return
		}
	}
}

func pause(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// mostWithin is the largest number of moments in any stretch of that length,
// and when the first such stretch begins. The moments are in order.
func mostWithin(moments []time.Time, length time.Duration) (most int, begins time.Time) {
	first := 0
	for last, at := range moments {
		for at.Sub(moments[first]) >= length {
			first++
		}
		if n := last - first + 1; n > most {
			most, begins = n, moments[first]
		}
	}
	return most, begins
}
