// Package sandbox runs a program where it can mount file systems and leave nothing behind: in a
// mount namespace of its own and, for a user who may not make one, in a user namespace too. The
// program starts itself a second time within it; the first process only prepares, waits, and cleans
// up.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// dirVariable tells the second process that it is one, and its directory.
const dirVariable = "MAYFLY_SANDBOX_DIR"

const (
	exitFailed      = 1
	exitImpossible  = 3
	exitInterrupted = 130
	// stopGrace is how long the second process has to tidy up.
	stopGrace = 30 * time.Second
)

// toldError is a failure that the second process has reported itself.
type toldError struct{ code int }

func (e *toldError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// leftError is a directory that could not be removed.
type leftError struct{ err error }

func (e *leftError) Error() string { return e.err.Error() }

// Program is what runs in the sandbox.
type Program struct {
	// Name is the program's, for its directory and its messages.
	Name string
	// Prepare runs outside of the sandbox, as the calling user: it builds what is missing, below
	// dir if it is not cached.
	Prepare func(ctx context.Context, dir string) error
	// Run runs within it. The sandbox removes its files below dir; Run itself must end its
	// processes.
	Run func(ctx context.Context, dir string) error
}

// Main is the whole of a program's main. It returns the exit code.
func Main(p Program) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	if dir := os.Getenv(dirVariable); dir != "" {
		err = p.inside(ctx, dir)
	} else {
		err = p.outside(ctx)
	}
	return p.report(ctx, err)
}

// report prints an error once: the first process does not repeat the second one's.
func (p Program) report(ctx context.Context, err error) int {
	var told *toldError
	var left *leftError
	var impossible *ImpossibleError
	if errors.As(err, &left) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, left)
	}
	switch {
	case err == nil:
		return 0
	case errors.As(err, &told):
		return told.code
	case ctx.Err() != nil:
		fmt.Fprintf(os.Stderr, "%s: interrupted\n", p.Name)
		return exitInterrupted
	case errors.As(err, &impossible):
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, impossible)
		return exitImpossible
	case left == nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
	}
	return exitFailed
}

// outside prepares, runs the second process, and removes the directory.
func (p Program) outside(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", p.Name+"-")
	if err != nil {
		return fmt.Errorf("making a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return fmt.Errorf("resolving the directory to work in: %w", err)
	}
	if err := p.Prepare(ctx, dir); err != nil {
		return err
	}
	return enter(ctx, dir)
}

// remove removes the directory. Its mounts have gone with the namespace; a remaining one must not
// be emptied.
func remove(dir string) error {
	mounts, err := MountsBelow(dir)
	if err == nil && len(mounts) > 0 {
		err = fmt.Errorf("still mounted: %q", mounts)
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return &leftError{fmt.Errorf("removing %q: %w", dir, err)}
	}
	return nil
}

// enter starts this program once more, in namespaces of its own. Root needs no user namespace
// unless it lacks the capability, as in most containers.
func enter(ctx context.Context, dir string) error {
	if os.Geteuid() == 0 {
		err := again(ctx, dir, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
		if !errors.Is(err, syscall.EPERM) {
			return err
		}
	}
	err := again(ctx, dir, &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	})
	var path *fs.PathError
	if errors.As(err, &path) { // the process was not started at all
		return impossible(fmt.Errorf("making a user namespace: %w", path.Err))
	}
	return err
}

func again(ctx context.Context, dir string, attr *syscall.SysProcAttr) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Programs that make temporary files make them in the sandbox's directory.
	cmd.Env = append(os.Environ(), dirVariable+"="+dir, "TMPDIR="+dir)
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		return &toldError{ended.ExitCode()}
	}
	return err
}

func (p Program) inside(ctx context.Context, dir string) (err error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return impossible(fmt.Errorf("making this process's mounts private: %w", err))
	}
	// Programs started from here on must not see themselves as the second process.
	if err := os.Unsetenv(dirVariable); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmountBelow(dir)) }()
	return p.Run(ctx, dir)
}

// MountsBelow lists the mount points below a directory, the last mounted last.
func MountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	return points, nil
}

func unmountBelow(dir string) error {
	points, err := MountsBelow(dir)
	for i := len(points) - 1; i >= 0; i-- {
		if e := syscall.Unmount(points[i], syscall.MNT_DETACH); e != nil {
			err = errors.Join(err, fmt.Errorf("unmounting %q: %w", points[i], e))
		}
	}
	return err
}

// ImpossibleError says why this user cannot mount file systems here, and what would help.
type ImpossibleError struct {
	Err  error
	Help []string
}

func (e *ImpossibleError) Error() string {
	return fmt.Sprintf("this user cannot mount file systems here: %v\n\nWhat would help:\n  - %s",
		e.Err, strings.Join(e.Help, "\n  - "))
}

// Unwrap returns the kernel's error.
func (e *ImpossibleError) Unwrap() error { return e.Err }

// switches are the kernel settings that close user namespaces to ordinary
// users, the value that does, and the command that opens them.
var switches = []struct{ path, closed, open string }{
	{"/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"},
	{"/proc/sys/user/max_mnt_namespaces", "0", "sysctl -w user.max_mnt_namespaces=15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
}

// impossible finds out what prevents it.
func impossible(err error) error {
	return &ImpossibleError{Err: err, Help: help(os.Geteuid(), os.ReadFile)}
}

func help(uid int, read func(string) ([]byte, error)) []string {
	var lines []string
	for _, s := range switches {
		value, err := read(s.path)
		if err == nil && strings.TrimSpace(string(value)) == s.closed {
			lines = append(lines, fmt.Sprintf("user namespaces are closed by %s being %s; as root: %s", s.path, s.closed, s.open))
		}
	}
	if len(lines) == 0 {
		lines = append(lines, "no sysctl closes user namespaces, so a container's seccomp profile or a security module does; "+
			"run the container as privileged, or with --security-opt seccomp=unconfined --security-opt apparmor=unconfined")
	}
	if uid != 0 {
		lines = append(lines, "or run it as root, with sudo")
	}
	return lines
}
