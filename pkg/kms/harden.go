package kms

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// heapLimit makes the garbage collector run more often. The plugin needs a few MiB.
const heapLimit = 16 << 20

// Harden keeps secrets out of core dumps and, if the kernel allows it, out of swap, and keeps other
// processes from reading them with ptrace.
func Harden(log *slog.Logger) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if err := lock(); err != nil {
		log.Info("memory is not locked, so the kernel may swap it where the node has swap; grant CAP_IPC_LOCK", logkey.Error, err)
	}
	return nil
}

// lock locks all memory, except under a limit: then a later allocation could fail, which ends a Go
// process.
func lock() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("asking for the limit of locked memory: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("asking for the capabilities: %w", err)
	}
	if limit.Cur != unix.RLIM_INFINITY && caps[0].Effective&(1<<unix.CAP_IPC_LOCK) == 0 {
		return fmt.Errorf("at most %d bytes may be locked", limit.Cur)
	}
	return lockData()
}

// LimitMemory keeps a small process small, unless the operator has set the limits. Go uses memory
// for each processor, and a node may have many.
func LimitMemory() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapLimit)
	}
}
