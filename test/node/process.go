package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Every process of a node has these variables, which its children inherit. They say which processes
// belong to a node, instead of files with process ids: they are right after any crash, and are not
// confused by an id that the kernel reuses.
const (
	envDir       = "MAYFLY_NODE_PROCESS_OF"
	envComponent = "MAYFLY_NODE_COMPONENT"
)

const pollInterval = 100 * time.Millisecond

// process is one entry of /proc that belongs to a node.
type process struct {
	pid       int
	component Component
	leader    bool // the component itself, not a child such as a containerd shim
}

// processes lists the processes with a node's mark. Containers do not have it: they are found by
// their cgroup.
func processes(dir string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process that has gone, or a zombie, reads as empty.
		environ, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if p, ok := parseEnviron(environ, dir); ok {
			p.pid = pid
			session, err := unix.Getsid(pid)
			p.leader = err == nil && session == pid
			found = append(found, p)
		}
	}
	return found, nil
}

func parseEnviron(environ []byte, dir string) (p process, ok bool) {
	for _, variable := range bytes.Split(environ, []byte{0}) {
		name, value, _ := strings.Cut(string(variable), "=")
		switch name {
		case envDir:
			ok = value == dir
		case envComponent:
			p.component = Component(value)
		}
	}
	return p, ok
}

// pidOf finds a component's process, or 0.
func (l layout) pidOf(c Component) (int, error) {
	running, err := processes(l.dir)
	if err != nil {
		return 0, err
	}
	for _, p := range running {
		if p.leader && p.component == c {
			return p.pid, nil
		}
	}
	return 0, nil
}

// signal sends a signal to a component and waits until it is gone.
func (l layout) signal(ctx context.Context, c Component, sig unix.Signal) error {
	return poll(ctx, fmt.Sprintf("ending %s", c), func(context.Context) error {
		pid, err := l.pidOf(c)
		if err != nil || pid == 0 {
			return err
		}
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fatal(fmt.Errorf("signalling process %d: %w", pid, err))
		}
		reap(pid)
		return fmt.Errorf("process %d is still there", pid)
	})
}

// killAll kills everything that belongs to the node, containers included. It repeats until it finds
// nothing, because the processes may be forking.
func (l layout) killAll(ctx context.Context) error {
	return poll(ctx, "killing the node's processes", func(context.Context) error {
		running, err := processes(l.dir)
		if err != nil {
			return err
		}
		pids := cgroupPids(cgroupRoots(), l.cgroup())
		for _, p := range running {
			pids = append(pids, p.pid)
		}
		return killPids(pids)
	})
}

func killPids(pids []int) error {
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() })
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fatal(fmt.Errorf("killing process %d: %w", pid, err))
		}
		reap(pid)
	}
	if len(pids) > 0 {
		return fmt.Errorf("processes %v are still there", pids)
	}
	return nil
}

// reap reads the exit status of a child of this process. For any other process the kernel refuses,
// and its own parent reads it.
func reap(pid int) {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
}

// fatalError ends a poll at once.
type fatalError struct{ err error }

func (e fatalError) Error() string { return e.err.Error() }
func (e fatalError) Unwrap() error { return e.err }

func fatal(err error) error { return fatalError{err} }

// poll calls try until it succeeds, and fails with a fatal error at once or,
// when ctx ends, with the last error before that. what begins the error.
func poll(ctx context.Context, what string, try func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if final := (fatalError{}); errors.As(err, &final) {
			return fmt.Errorf("%s: %w", what, final.err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last: %w", what, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}
