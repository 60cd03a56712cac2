package sandbox

import (
	"fmt"
	"os"
	"strings"
)

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
