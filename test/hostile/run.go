package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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
	defer func() { err = errors.Join(err, w.Close()) }()
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
	starting, stopChurn := context.WithCancel(ctx)
	defer stopChurn()
	var churn, runs sync.WaitGroup
	churn.Go(func() { g.churn(ctx, starting) })
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
	stopChurn()
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

// say prints progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "hostile: "+format+"\n", args...) }

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// print writes the table and the figures.
func (r result) print(w io.Writer) {
	name, tried := len("attack"), len("tried")
	for _, row := range r.rows {
		name, tried = max(name, len(row.name)), max(tried, len(row.tried))
	}
	line := func(a, b, c string) {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-*s  %-*s  %s", name, a, tried, b, c), " "))
	}
	fmt.Fprintln(w)
	line("attack", "tried", "outcome")
	for _, row := range r.rows {
		line(row.name, row.tried, row.verdict.String())
	}
	fmt.Fprintln(w)
	g, n := r.good, r.node
	fmt.Fprintf(w, "refreshes missed  %d of %d (the slowest after %s)\n", g.Missed, g.Values, g.Worst.Round(10*time.Millisecond))
	fmt.Fprintf(w, "restarts          %d (killed for want of memory %d times, by the liveness probe %d times, of which %d failed)\n", n.Restarts, n.Kills, n.Unhealthy, n.FailedProbes)
	fmt.Fprintf(w, "peak memory       %s\n", r.peak())
	fmt.Fprintf(w, "pods of the good tenant: %d came and went; %d publishes (slowest %s) and %d unpublishes (slowest %s) failed, %d of %d revocations were late; %d reads found no file\n",
		g.Pods, g.FailedPublishes, g.WorstPublish.Round(10*time.Millisecond), g.FailedUnpublishes, g.WorstUnpublish.Round(10*time.Millisecond), g.LateRevocations, g.Revocations, g.Gaps)
	fmt.Fprintf(w, "pods of the hostile tenant: %d of %d could not be unpublished within %s of the attacks' end\n", r.stuck, r.left, leaveLimit)
	for _, text := range append(n.Endings, g.Problems...) {
		fmt.Fprintf(w, "  %s\n", text)
	}
}

func (r result) peak() string {
	n := r.node
	if r.limit == 0 {
		return fmt.Sprintf("%s of the process; NO LIMIT OF MEMORY was set (--no-cgroup)", mib(n.PeakProcess))
	}
	return fmt.Sprintf("%s of a limit of %s (of the process %s, in tmpfs %s, of the kernel %s, each at its own moment)",
		mib(n.PeakGroup), mib(r.limit), mib(n.PeakProcess), mib(n.PeakShared), mib(n.PeakKernel))
}

// String is for the table.
func (v verdict) String() string {
	word := "held"
	switch {
	case v.through:
		word = "BROKE THROUGH"
	case v.untried:
		return "NOT TRIED: the driver answered none of its calls"
	}
	if v.text == "" {
		return word
	}
	return word + ": " + v.text
}

// printAnswers writes how the driver last refused each attack.
func (r result) printAnswers(w io.Writer) {
	for _, row := range r.rows {
		if row.answered != "" {
			fmt.Fprintf(w, "\n%s was last refused:\n  %s\n", row.name, row.answered)
		}
	}
}

// clip keeps the beginning and the end of a long text.
func clip(text string) string {
	const most = 600
	if len(text) > most {
		return text[:most/2] + " ... " + text[len(text)-most/2:]
	}
	return text
}

// failed names the violated limits.
func (r result) failed() error {
	g, n := r.good, r.node
	var errs []error
	fail := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fail(g.Missed > 0, "the good tenant missed %d of %d refreshes", g.Missed, g.Values)
	fail(n.Restarts > 0 || n.Kills > 0, "the driver was restarted %d times, and killed for want of memory %d times", n.Restarts, n.Kills)
	fail(g.FailedPublishes > 0, "%d new pods of the good tenant did not start within %s", g.FailedPublishes, publishLimit)
	fail(g.FailedUnpublishes > 0, "%d pods of the good tenant did not end within %s", g.FailedUnpublishes, publishLimit)
	fail(g.LateRevocations > 0, "%d Vault tokens of the good tenant were not revoked within %s", g.LateRevocations, revokeLimit)
	fail(g.Gaps > 0, "%d reads of the good tenant found no file", g.Gaps)
	fail(r.stuck > 0, "%d pods of the hostile tenant could not be unpublished", r.stuck)
	for _, row := range r.rows {
		fail(row.verdict.through, "%s broke through", row.name)
	}
	return errors.Join(errs...)
}

// printEach writes one line for each attack that ran alone.
func printEach(w io.Writer, results []result) {
	fmt.Fprintf(w, "\n%-22s %8s %9s %12s %12s  %s\n", "attack, alone", "missed", "restarts", "peak", "process", "outcome")
	for _, r := range results {
		row := r.rows[0]
		v := row.verdict
		if r.failed() != nil {
			v.through = true
		}
		fmt.Fprintf(w, "%-22s %8d %9d %12s %12s  %s\n", row.name, r.good.Missed, r.node.Restarts, mib(r.node.PeakGroup), mib(r.node.PeakProcess), strings.TrimSuffix(fmt.Sprintf("%s (%s)", v, row.tried), " ()"))
	}
}

// attack is one action of the hostile tenant, with the rights of a namespace's editor: it makes
// classes and pods, and has servers.
type attack struct {
	name string
	does string // in one line
	// servers is how many of its own it has, before prepare.
	servers int
	// after is when it begins. Attacks that take memory begin after those that only need a few
	// volumes, so that both can happen.
	after time.Duration
	// prepare sets the answers of the servers. It runs before the driver does.
	prepare func(s *scene) error
	// run does it, until ctx ends or there is nothing left to do.
	run func(ctx context.Context, s *scene)
	// judge evaluates the attack after its end. Without it, only the run's figures show the attack.
	judge func(s *scene) verdict
}

// later is when attacks begin that take memory.
const later = armAfter + 2*time.Second

func attacks() []attack {
	var all []attack
	for _, group := range [][]attack{classAttacks(), answerAttacks(), contentAttacks(), fileAttacks(), storeAttacks(), lifeAttacks(), akeylessAttacks(), nodeAttacks()} {
		all = append(all, group...)
	}
	return all
}

// reads prepares the answers of all servers of an attack to reads.
func reads(read func(s *scene, w http.ResponseWriter, r *http.Request)) func(*scene) error {
	return func(s *scene) error {
		for _, server := range s.servers {
			server.read = func(w http.ResponseWriter, r *http.Request) { read(s, w, r) }
		}
		return nil
	}
}

// volumes makes a class for each server of an attack, and mounts pods of it.
func volumes(pods int, objects string, more ...string) func(context.Context, *scene) {
	return func(ctx context.Context, s *scene) {
		for i := range s.servers {
			class := s.name(i)
			if len(s.servers) == 1 {
				class = s.name()
			}
			s.put(class, s.parameters(i, objects, more...))
			s.mount(ctx, s.podsOf(class, pods, true)...)
		}
	}
}

// thenArm waits for an attack's volumes, after which its servers fail.
func thenArm(mount func(context.Context, *scene)) func(context.Context, *scene) {
	return func(ctx context.Context, s *scene) {
		mount(ctx, s)
		s.awaitMounted(ctx, armAfter)
		s.add("armed", 1)
	}
}

// verdict is the result of an attack.
type verdict struct {
	through bool
	untried bool // the driver answered nothing at all
	text    string
}

func held(format string, args ...any) verdict { return verdict{text: fmt.Sprintf(format, args...)} }

// throughIf returns a verdict with one text for both outcomes.
func throughIf(broke bool, format string, args ...any) verdict {
	return verdict{through: broke, text: fmt.Sprintf(format, args...)}
}

// perMinute converts a number to one for a minute of the attack.
func (s *scene) perMinute(n int64) int64 {
	lasted := max(s.ended.Sub(s.began), time.Second)
	return int64(float64(n) * float64(time.Minute) / float64(lasted))
}

// verdict evaluates an attack: every attack's pods must be unpublished. If the driver unpublishes
// no pods at all, that is not this attack's effect.
func (s *scene) verdict(anybodyGoes bool) verdict {
	v := held("")
	if s.attack.judge != nil {
		v = s.attack.judge(s)
	}
	if s.stuck > 0 && anybodyGoes {
		v.through = true
		v.text = strings.TrimSuffix(fmt.Sprintf("%d of its pods cannot be unpublished; %s", s.stuck, v.text), "; ")
	}
	v.untried = !v.through && s.absent > 0 && s.once == 0 && s.refused == 0
	return v
}

// tried describes how many pods were mounted and how many calls refused.
func (s *scene) tried() string {
	if len(s.pods) == 0 && s.once == 0 {
		return ""
	}
	text := fmt.Sprintf("%d pods mounted", s.once)
	if len(s.pods) >= s.once {
		text = fmt.Sprintf("%d of %d pods mounted", s.once, len(s.pods))
	}
	if s.refused > 0 {
		text += fmt.Sprintf(", %d calls refused", s.refused)
	}
	if s.absent > 0 {
		text += fmt.Sprintf(", %d not answered", s.absent)
	}
	return text
}
