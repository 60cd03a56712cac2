package tmpfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
)

var (
	// ErrMounted is what Mount answers where something is mounted already; the
	// error is a *ConflictError.
	ErrMounted = errors.New("already a mount point")
	// ErrForeign is the answer to a request to change or measure a mount that
	// this driver did not make; the error is a *ConflictError.
	ErrForeign = errors.New("mounted by something else")
	// ErrNotMounted is the answer where a mount is needed and there is none.
	ErrNotMounted = errors.New("not a mount point")
	// ErrNotDirectory is the answer where the target is a file or a symbolic
	// link, which is never followed.
	ErrNotDirectory = errors.New("not a directory")
	// ErrTooSmall is what Resize answers when the volume holds more than the
	// new limits allow.
	ErrTooSmall = errors.New("holds more than the new limits allow")
	// ErrTarget is the answer to a path that cannot name a volume.
	ErrTarget = errors.New("not a usable target path")
)

// ConflictError tells what is mounted where this driver wanted to act. It
// matches ErrMounted or ErrForeign.
type ConflictError struct {
	Target string
	Info   Info
	kind   error
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("target %q is %v: %s from source %q", e.Target, e.kind, e.Info.FSType, e.Info.Source)
}

func (e *ConflictError) Unwrap() error { return e.kind }

// fail says what was attempted on which target, with a hint where the
// operating system's own words leave a person guessing.
func fail(attempt, target string, err error) error {
	return fmt.Errorf("%s %q: %w%s", attempt, target, err, mountHint(err))
}

// failLook is fail for what only looks at the target.
func failLook(attempt, target string, err error) error {
	return fmt.Errorf("%s %q: %w%s", attempt, target, err, lookHint(err))
}

func mountHint(err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (mounting needs CAP_SYS_ADMIN: run the driver's container as privileged)"
	case errors.Is(err, unix.ENOSPC):
		return " (is the limit of sysctl fs.mount-max reached?)"
	case errors.Is(err, unix.ENODEV):
		return " (this kernel has no tmpfs)"
	}
	return ""
}

func lookHint(err error) string {
	switch {
	case errors.Is(err, unix.EACCES):
		return " (the driver needs root, or CAP_DAC_READ_SEARCH)"
	case dead(err):
		return " (a dead mount is in the way: the server or process behind it is gone)"
	}
	return ""
}

// dead tells that err is a file system's without a server behind it. The list
// of such errors is that of k8s.io/mount-utils, which wants them bare.
func dead(err error) bool {
	var number unix.Errno
	return errors.As(err, &number) && mount.IsCorruptedMnt(number)
}

// refusal adds what the kernel wrote to a file system context's log.
type refusal struct {
	what   parameter
	reason string
	err    error
}

func (e *refusal) Error() string {
	var b strings.Builder
	if e.what.key != "" {
		fmt.Fprintf(&b, "setting option %s", e.what.key)
		if e.what.value != "" {
			fmt.Fprintf(&b, " to %q", e.what.value)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.err.Error())
	if e.reason != "" {
		fmt.Fprintf(&b, " (kernel: %s)", e.reason)
	}
	if e.what.key == "context" && errors.Is(e.err, unix.EINVAL) {
		b.WriteString(" (SELinux is off on this node, or its policy does not know this context)")
	}
	return b.String()
}

func (e *refusal) Unwrap() error { return e.err }
