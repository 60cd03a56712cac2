package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	goodVolumes = 8
	// slack is how much longer than the interval a value may take.
	slack     = 2 * time.Second
	lookEvery = 100 * time.Millisecond

	churnEvery   = 2 * time.Second
	churnLives   = 5 * time.Second
	publishLimit = 10 * time.Second
	// retryDelay is the first of kubelet's.
	retryDelay  = 500 * time.Millisecond
	revokeLimit = 10 * time.Second
)

// good is the tenant that the attacks must not harm: volumes whose secrets change in the store in every
// interval, and pods that come and go.
type good struct {
	*world
	pods    []kubelet.Pod
	ledgers []*ledger

	mu      sync.Mutex
	figures goodFigures
	lives   sync.WaitGroup
}

// goodFigures are the results of the good tenant.
type goodFigures struct {
	Values, Missed int // refreshes expected, and those that came late or never
	Worst          time.Duration
	Gaps           int // a file was not there, or had no value

	Pods                               int // that came and went
	FailedPublishes, FailedUnpublishes int
	Revocations, LateRevocations       int
	WorstPublish, WorstUnpublish       time.Duration
	// Problems are the first few.
	Problems []string
}

const maxProblems = 5

func (g *good) problem(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.figures.Problems) < maxProblems {
		g.figures.Problems = append(g.figures.Problems, fmt.Sprintf(format, args...))
	}
}

func (g *good) note(change func(f *goodFigures)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.figures)
}

// start makes the classes and publishes the volumes that stay.
func (g *good) start(ctx context.Context) error {
	if err := g.put(ctx, 0); err != nil {
		return err
	}
	for i := range goodVolumes {
		class := fmt.Sprintf("web-%d", i)
		if err := g.class(shop, class, "vault", g.parameters(i, map[string]string{"refreshInterval": g.interval.String()})); err != nil {
			return err
		}
		// Half of the pods share a service account, half have their own.
		pod := g.pod(shop, class, fmt.Sprintf("web-%d", i/2*(i%2)), class)
		if err := g.kubelet.Publish(ctx, pod); err != nil {
			return fmt.Errorf("publishing %s/%s before there is any attack: %w", shop, pod.Name, err)
		}
		g.pods = append(g.pods, pod)
		g.ledgers = append(g.ledgers, newLedger(g.interval+slack))
	}
	return g.class(shop, "churn", "vault", g.parameters(0, map[string]string{"sessionSharing": "pod"}))
}

func (g *good) parameters(secret int, more map[string]string) map[string]string {
	p := map[string]string{
		"vaultAddress": g.proxy.URL, "roleName": shop,
		"objects": fmt.Sprintf("[{objectName: value, secretPath: kv/data/%s/%d, secretKey: value}]", shop, secret),
	}
	maps.Copy(p, more)
	return p
}

// put writes a value into each volume's secret.
func (g *good) put(ctx context.Context, value int) error {
	for i := range goodVolumes {
		if err := g.vault.PutKV2(ctx, "kv", fmt.Sprintf("%s/%d", shop, i), map[string]any{"value": strconv.Itoa(value)}); err != nil {
			return err
		}
		if i < len(g.ledgers) {
			g.ledgers[i].wrote(value, time.Now())
		}
	}
	return nil
}

// change writes a new value in every interval, for some time.
func (g *good) change(ctx context.Context, first int, lasts time.Duration) (next int, err error) {
	end := time.Now().Add(lasts)
	for next = first; time.Now().Before(end); next++ {
		if err := g.put(ctx, next); err != nil {
			return next, err
		}
		if !pause(ctx, g.interval) {
			return next, context.Cause(ctx)
		}
	}
	return next, nil
}

// look reads the volumes as their pods would, until ctx ends.
func (g *good) look(ctx context.Context) {
	for ok := true; ok; ok = pause(ctx, lookEvery) {
		for i, pod := range g.pods {
			value, err := g.read(pod)
			if err != nil {
				g.note(func(f *goodFigures) { f.Gaps++ })
				g.problem("reading the volume of %s: %v", pod.Name, err)
				continue
			}
			g.ledgers[i].saw(value, time.Now())
		}
	}
}

func (g *good) read(pod kubelet.Pod) (int, error) {
	data, err := os.ReadFile(filepath.Join(g.kubelet.Target(pod), "value"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// await waits until no value is open any longer.
func (g *good) await(ctx context.Context) error {
	return testkit.Poll(ctx, lookEvery, func() (bool, error) {
		open := 0
		for _, l := range g.ledgers {
			_, _, n := l.sum(time.Now())
			open += n
		}
		return open == 0, nil
	})
}

// sum adds up the ledgers.
func (g *good) sum() goodFigures {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.figures
	for _, l := range g.ledgers {
		missed, worst, _ := l.sum(time.Now())
		f.Missed += missed
		f.Values += l.values()
		f.Worst = max(f.Worst, worst)
	}
	return f
}

// churn starts a pod every few seconds until starting ends, and then waits for
// the last ones to go.
func (g *good) churn(ctx, starting context.Context) {
	defer g.lives.Wait()
	for i, ok := 0, true; ok; i, ok = i+1, pause(starting, churnEvery) {
		g.lives.Go(func() { g.live(ctx, i) })
	}
}

// live is one pod's life.
func (g *good) live(ctx context.Context, i int) {
	pod := g.pod(shop, fmt.Sprintf("churn-%d", i), "churn", "churn")
	took, err := g.insist(ctx, func(ctx context.Context) error { return g.kubelet.Publish(ctx, pod) })
	g.note(func(f *goodFigures) { f.Pods++; f.WorstPublish = max(f.WorstPublish, took) })
	published := err == nil
	if !published {
		g.note(func(f *goodFigures) { f.FailedPublishes++ })
		g.problem("publishing %s: %v", pod.Name, err)
	} else if _, err := g.read(pod); err != nil {
		g.note(func(f *goodFigures) { f.Gaps++ })
		g.problem("reading the new volume of %s: %v", pod.Name, err)
	}
	_ = pause(ctx, churnLives)
	took, err = g.insist(ctx, func(ctx context.Context) error { return g.kubelet.Unpublish(ctx, pod) })
	g.note(func(f *goodFigures) { f.WorstUnpublish = max(f.WorstUnpublish, took) })
	if err != nil {
		g.note(func(f *goodFigures) { f.FailedUnpublishes++ })
		g.problem("unpublishing %s: %v", pod.Name, err)
		return
	}
	if published {
		g.awaitRevocation(ctx, pod)
	}
}

// insist repeats a failed call as kubelet does, up to a time limit.
func (g *good) insist(ctx context.Context, call func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	began := time.Now()
	for {
		if err := call(ctx); err == nil || !pause(ctx, retryDelay) {
			return time.Since(began), err
		}
	}
}

func (g *good) awaitRevocation(ctx context.Context, pod kubelet.Pod) {
	ctx, cancel := context.WithTimeout(ctx, revokeLimit)
	defer cancel()
	g.note(func(f *goodFigures) { f.Revocations++ })
	for ok := true; ok; ok = pause(ctx, lookEvery) {
		if g.proxy.hasRevoked(pod.UID) {
			return
		}
	}
	g.note(func(f *goodFigures) { f.LateRevocations++ })
	g.problem("the Vault token of %s was not revoked within %s of its end", pod.Name, revokeLimit)
}

// leave unpublishes the volumes that stayed.
func (g *good) leave(ctx context.Context) {
	for _, pod := range g.pods {
		if _, err := g.insist(ctx, func(ctx context.Context) error { return g.kubelet.Unpublish(ctx, pod) }); err != nil {
			g.note(func(f *goodFigures) { f.FailedUnpublishes++ })
			g.problem("unpublishing %s: %v", pod.Name, err)
		}
	}
}

// ledger records for one volume when values were written into the store, and when the volume showed
// them. Values are counted from 1.
type ledger struct {
	limit time.Duration // time that a value may take

	mu      sync.Mutex
	written map[int]time.Time
	seen    map[int]time.Time
	newest  int // seen
}

func newLedger(limit time.Duration) *ledger {
	return &ledger{limit: limit, written: map[int]time.Time{}, seen: map[int]time.Time{}}
}

func (l *ledger) wrote(value int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[value] = at
}

// saw records that the volume had a value. Earlier values count as seen too.
func (l *ledger) saw(value int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.newest < value; l.newest++ {
		l.seen[l.newest+1] = at
	}
}

// sum tells how many values came late or never, how long the slowest one took
// that came, and how many are not there but have time left.
func (l *ledger) sum(now time.Time) (missed int, worst time.Duration, open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for value, at := range l.written {
		seen, ok := l.seen[value]
		switch {
		case ok:
			took := seen.Sub(at)
			worst = max(worst, took)
			if took > l.limit {
				missed++
			}
		case now.Sub(at) > l.limit:
			missed++
		default:
			open++
		}
	}
	return missed, worst, open
}

// values is how many were written.
func (l *ledger) values() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.written)
}

// lifeAttacks are in the answers of the tenant's own servers about the lifetimes and sizes of
// tokens and credentials.
func lifeAttacks() []attack {
	return []attack{shortLivesAttack(), bigTokensAttack()}
}

func shortLivesAttack() attack {
	return attack{
		name: "short-lives", does: "tokens and 100 leases a volume that live for a second or two, so that all is renewed for ever", servers: 1,
		prepare: func(s *scene) error {
			s.servers[0].login = func(pod podOf) string { return loginAnswer(pod, rand.Text(), time.Second) }
			s.servers[0].read = func(w http.ResponseWriter, _ *http.Request) {
				s.add("asked", 1)
				answer(w, http.StatusOK, fmt.Sprintf(`{"request_id":"1","lease_id":"database/creds/web/%s","lease_duration":2,"renewable":true,"data":{"k":"v"}}`, rand.Text()))
			}
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.parameters(0, objects(100, "")))
			s.mount(ctx, s.podsOf(s.name(), 6, true)...)
		},
		judge: func(s *scene) verdict {
			return held("%d requests a second reached its server", s.perMinute(s.count("asked"))/60)
		},
	}
}

func bigTokensAttack() attack {
	return attack{
		name: "big-tokens", does: "tokens and lease ids of 256 KiB, which the driver's state holds", servers: 1, after: later,
		prepare: func(s *scene) error {
			big := strings.Repeat("t", 256<<10)
			s.servers[0].login = func(pod podOf) string { return loginAnswer(pod, rand.Text()+big, time.Hour) }
			body := fmt.Sprintf(`{"request_id":"1","lease_id":"database/creds/web/%s","lease_duration":3600,"renewable":true,"data":{"k":"v"}}`, big)
			s.servers[0].read = answering(http.StatusOK, body)
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.parameters(0, objects(10, "")))
			s.mount(ctx, s.podsOf(s.name(), 20, true)...)
		},
		judge: judgeState,
	}
}

// judgeState evaluates attacks that fill the driver's state.
func judgeState(s *scene) verdict {
	return throughIf(s.peakState > s.stateSize/2, "%s of the %s of the driver's state were in use at most", mib(s.peakState), mib(s.stateSize))
}
