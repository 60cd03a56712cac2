package tmpfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
)

var (
	// Mount returns ErrMounted if the target is a mount point already; the error is a
	// *ConflictError.
	ErrMounted = errors.New("already a mount point")
	// Methods that change or measure a mount return ErrForeign if this driver did not make it; the
	// error is a *ConflictError.
	ErrForeign = errors.New("mounted by something else")
	// ErrNotMounted says that the target must be a mount point and is none.
	ErrNotMounted = errors.New("not a mount point")
	// ErrNotDirectory says that the target is a file or a symbolic link, which this package never
	// follows.
	ErrNotDirectory = errors.New("not a directory")
	// Resize returns ErrTooSmall if the volume holds more than the new limits allow.
	ErrTooSmall = errors.New("holds more than the new limits allow")
	// ErrTarget says that a path cannot name a volume.
	ErrTarget = errors.New("not a usable target path")
)

// ConflictError describes the mount that is in the driver's way. It matches ErrMounted or
// ErrForeign.
type ConflictError struct {
	Target string
	Info   Info
	kind   error
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("target %q is %v: %s from source %q", e.Target, e.kind, e.Info.FSType, e.Info.Source)
}

func (e *ConflictError) Unwrap() error { return e.kind }

// fail names the attempt and the target, and adds a hint where the operating system's own text does
// not say enough.
func fail(attempt, target string, err error) error {
	return fmt.Errorf("%s %q: %w%s", attempt, target, err, mountHint(err))
}

// failLook is fail for a call that only inspects the target.
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

// dead reports whether err means that the server of a file system is gone. The list of such errors
// is that of k8s.io/mount-utils, which needs them unwrapped.
func dead(err error) bool {
	number, ok := errors.AsType[unix.Errno](err)
	return ok && mount.IsCorruptedMnt(number)
}

// refusal adds the messages of a file system context's log.
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
