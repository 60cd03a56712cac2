package main

import (
	"bytes"
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

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/kubelet"
)

const (
	sampleEvery = 200 * time.Millisecond
	// restartDelay is kubelet's first; it does not grow here, so that a driver has every chance.
	restartDelay = time.Second

	// kubelet's liveness probe has the chart's timeout and threshold, and runs
	// more often, for the run is short.
	probeEvery     = 2 * time.Second
	probeTimeout   = 3 * time.Second
	probeThreshold = 5
)

// node runs the driver as kubelet does: with a memory limit, restarted when it has ended, and
// checked by its liveness probe.
type node struct {
	*world
	group *cgroup // nil without one

	mu      sync.Mutex
	process *driver.Process
	figures nodeFigures
}

type nodeFigures struct {
	Restarts int   // the driver ended, or would not start
	Kills    int64 // by the kernel, for want of memory
	// Unhealthy is how many restarts the liveness probe brought about,
	// FailedProbes how many probes failed.
	Unhealthy, FailedProbes int

	PeakGroup, PeakProcess, PeakShared, PeakKernel int64 // bytes
	// Endings are how the driver ended, the first few.
	Endings []string
}

const maxEndings = 3

// start puts the driver into its cgroup and waits until it is ready.
func (n *node) start(ctx context.Context) error {
	p, err := n.launch(ctx)
	if err != nil {
		return err
	}
	n.process = p
	if n.kubelet, err = kubelet.Dial(n.kubeletDir(), p.Socket); err == nil {
		n.Add(n.kubelet.Close)
	}
	return err
}

// launch starts the driver through a script that enters the cgroup first, so that all memory is
// charged there.
func (n *node) launch(ctx context.Context) (*driver.Process, error) {
	program := n.binary
	if n.group != nil {
		program = filepath.Join(n.dir, "start")
		script := fmt.Sprintf("#!/bin/sh\necho $$ >%q && exec %q \"$@\"\n", n.group.procs(), n.binary)
		if err := os.WriteFile(program, []byte(script), 0o755); err != nil { //nolint:gosec // a program
			return nil, err
		}
	}
	return driver.Start(ctx, driver.Options{Binary: program, Dir: n.dir, Args: n.flags(), Logs: n.log})
}

// watch samples the driver's resource use and restarts it when it has ended, until ctx ends.
func (n *node) watch(ctx context.Context) {
	for pause(ctx, sampleEvery) {
		n.sample()
		if err := n.running().Alive(); err != nil {
			n.restart(ctx, err)
		}
	}
}

func (n *node) running() *driver.Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

// restart starts the driver until it stays.
func (n *node) restart(ctx context.Context, ended error) {
	for ctx.Err() == nil {
		n.ended(ended)
		say("the driver has ended: %s", firstLine(ended))
		if !pause(ctx, restartDelay) {
			return
		}
		p, err := n.launch(ctx)
		if err == nil {
			n.mu.Lock()
			n.process = p
			n.mu.Unlock()
			return
		}
		ended = err
	}
}

func (n *node) ended(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.figures.Restarts++
	if len(n.figures.Endings) < maxEndings {
		n.figures.Endings = append(n.figures.Endings, firstLine(err))
	}
}

// firstLine returns the first line of a text, without the driver's log.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return strings.TrimSuffix(line, "; its log ends with:")
}

// sample records the maximum of the present use.
func (n *node) sample() {
	p := n.running()
	if p == nil {
		return // it has not started
	}
	usage, err := p.Usage()
	n.mu.Lock()
	defer n.mu.Unlock()
	f := &n.figures
	if err == nil {
		f.PeakProcess = max(f.PeakProcess, usage.Peak)
	}
	if n.group == nil {
		return
	}
	if shared, kernel, err := n.group.stat(); err == nil {
		f.PeakShared, f.PeakKernel = max(f.PeakShared, shared), max(f.PeakKernel, kernel)
	}
}

// probe checks the health as kubelet does, on a new connection each time.
func (n *node) probe(ctx context.Context) {
	client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	failed := 0
	for pause(ctx, probeEvery) {
		if n.running().Alive() != nil {
			failed = 0 // it is being restarted anyway
			continue
		}
		if err := n.healthy(ctx, client); err == nil || ctx.Err() != nil {
			failed = 0
			continue
		}
		failed++
		n.mu.Lock()
		n.figures.FailedProbes++
		n.mu.Unlock()
		if failed == probeThreshold {
			failed = 0
			n.unhealthy()
		}
	}
}

// unhealthy kills the driver, which watch then restarts. Kubelet's grace period would take most of
// the run.
func (n *node) unhealthy() {
	n.mu.Lock()
	n.figures.Unhealthy++
	n.mu.Unlock()
	if err := n.running().Kill(); err != nil {
		say("%v", err)
	}
}

func (n *node) healthy(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.healthAddr+"/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health: %s", answer.Status)
	}
	return nil
}

// end stops the driver and reads the cgroup a last time. A driver that does not stop in time is
// killed, which is reported but no failure.
func (n *node) end() (nodeFigures, error) {
	n.sample()
	var errs []error
	if p := n.running(); p != nil && p.Alive() == nil {
		if err := p.Stop(); err != nil {
			say("%s", firstLine(err))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.group != nil {
		var err error
		if n.figures.PeakGroup, err = n.group.peak(); err != nil {
			errs = append(errs, err)
		}
		if n.figures.Kills, err = n.group.kills(); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, n.group.remove())
	}
	// The state outlives the driver on purpose; a reboot removes it.
	if err := unix.Unmount(n.stateDir(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmounting the driver's state: %w", err))
	}
	return n.figures, errors.Join(errs...)
}

// logCounter counts the driver's log lines, and how many of them name the hostile tenant's
// namespace.
type logCounter struct {
	mu    sync.Mutex
	to    io.Writer // nil for nowhere
	rest  []byte    // of a line without its end
	evil  int64     // bytes
	lines int64     // of the hostile tenant
	all   int64     // bytes
}

// maxLine bounds an unfinished line in bytes.
const maxLine = 4 << 20

// Write implements io.Writer.
func (l *logCounter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all += int64(len(p))
	if l.to != nil {
		if n, err := l.to.Write(p); err != nil {
			return n, err
		}
	}
	l.rest = append(l.rest, p...)
	for {
		end := bytes.IndexByte(l.rest, '\n')
		if end < 0 {
			break
		}
		if line := l.rest[:end+1]; bytes.Contains(line, []byte(evil)) {
			l.evil += int64(len(line))
			l.lines++
		}
		l.rest = l.rest[end+1:]
	}
	if len(l.rest) > maxLine {
		l.rest = nil
	}
	return len(p), nil
}

// ofEvil is how many bytes and lines the hostile tenant caused.
func (l *logCounter) ofEvil() (size, lines int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.evil, l.lines
}
