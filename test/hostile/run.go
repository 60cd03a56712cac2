package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// calmIntervals are the intervals before the attacks, in which no refresh may be missed: otherwise
// the machine is too slow for a result.
const calmIntervals = 3

var errSlowMachine = errors.New("the good tenant missed refreshes before there was any attack: this machine is too slow or too busy for the run")

type result struct {
	rows  []row
	node  nodeFigures
	good  goodFigures
	limit int64 // 0 without a cgroup
	// left is how many pods the attacks had at their end, and stuck how many of them could not be
	// unpublished.
	left, stuck int
}

// row is one attack in the table.
type row struct {
	name, tried string
	answered    string // the driver's last refusal
	verdict     verdict
}

// attackRun does some attacks at once against a driver of their own.
func attackRun(ctx context.Context, c config, dir, binary string, list []attack) (r result, err error) {
	w, err := newWorld(ctx, c, dir, binary)
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if c.logs != "" {
		file, err := os.OpenFile(c.logs, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return result{}, fmt.Errorf("opening --logs: %w", err)
		}
		defer file.Close()
		w.log.to = file
	}
	var scenes []*scene
	defer func() {
		for _, s := range scenes {
			s.close()
		}
	}()
	for _, a := range list {
		s := newScene(w, a)
		scenes = append(scenes, s)
		if a.prepare == nil {
			continue
		}
		if err := a.prepare(s); err != nil {
			return result{}, fmt.Errorf("preparing attack %s: %w", a.name, err)
		}
	}
	n := &node{world: w}
	if !c.noCgroup {
		if n.group, err = newCgroup(c.limit); err != nil {
			return result{}, fmt.Errorf("%w; --no-cgroup runs without a limit of memory, which proves less", err)
		}
	}
	return n.attacked(ctx, scenes)
}

// attacked runs the driver, the good tenant and the attacks.
func (n *node) attacked(ctx context.Context, scenes []*scene) (r result, err error) {
	defer func() {
		figures, e := n.end()
		r.node, err = figures, errors.Join(err, e)
	}()
	if err := n.start(ctx); err != nil {
		return result{}, err
	}
	background, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer func() { stop(); parts.Wait() }()
	parts.Go(func() { n.watch(background) })
	parts.Go(func() { n.probe(background) })

	g := &good{world: n.world}
	if err := g.start(ctx); err != nil {
		return result{}, err
	}
	looking, stopLooking := context.WithCancel(background)
	defer stopLooking()
	var look sync.WaitGroup
	look.Go(func() { g.look(looking) })
	value, err := g.change(ctx, 1, calmIntervals*n.interval)
	if err == nil {
		err = g.await(ctx)
	}
	if err != nil {
		return result{}, err
	}
	if calm := g.sum(); calm.Missed > 0 {
		return result{}, fmt.Errorf("%w (%d of %d)", errSlowMachine, calm.Missed, calm.Values)
	}
	if err := n.together(ctx, g, scenes, value); err != nil {
		return result{}, err
	}
	stopLooking()
	look.Wait()
	g.leave(ctx)
	r.good = g.sum()
	if n.group != nil {
		r.limit = n.limit
	}
	for _, s := range scenes {
		r.left += len(s.pods)
		r.stuck += s.stuck
	}
	for _, s := range scenes {
		r.rows = append(r.rows, row{s.attack.name, s.tried(), clip(s.lastErr), s.verdict(len(scenes) == 1 || r.stuck < r.left/2)})
	}
	return r, context.Cause(ctx)
}

// together runs the attacks beside the good tenant, and then unpublishes their pods.
func (n *node) together(ctx context.Context, g *good, scenes []*scene, value int) error {
	attacking, stopAttacks := context.WithCancel(ctx)
	defer stopAttacks()
	stopChurn := make(chan struct{})
	var churn, runs sync.WaitGroup
	churn.Go(func() { g.churn(ctx, stopChurn) })
	for _, s := range scenes {
		s.began = time.Now().Add(s.attack.after)
		runs.Go(func() {
			if pause(attacking, s.attack.after) {
				s.attack.run(attacking, s)
			}
		})
	}
	runs.Go(func() { sampleAll(attacking, scenes) })
	_, err := g.change(ctx, value, n.duration)
	if err == nil {
		err = g.await(ctx)
	}
	stopAttacks()
	runs.Wait()
	for _, s := range scenes {
		s.calls.Wait()
		s.ended = time.Now()
	}
	close(stopChurn)
	churn.Wait()
	if err != nil {
		return err
	}
	say("the attacks are over; their pods go")
	leaving, cancel := context.WithTimeout(ctx, leaveLimit)
	defer cancel()
	var leaves sync.WaitGroup
	for _, s := range scenes {
		leaves.Go(func() { s.leave(leaving) })
	}
	leaves.Wait()
	return nil
}

// each runs the attacks one after the other, each against a new driver.
func each(ctx context.Context, c config, dir, binary string, list []attack) ([]result, error) {
	var results []result
	for i, a := range list {
		say("%d of %d: %s", i+1, len(list), a.name)
		r, err := attackRun(ctx, c, filepath.Join(dir, a.name), binary, []attack{a})
		if err != nil {
			return results, fmt.Errorf("attack %s: %w", a.name, err)
		}
		results = append(results, r)
	}
	return results, nil
}
