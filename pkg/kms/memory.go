package kms

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// mapping is a part of the process's memory (proc_pid_maps(5)).
type mapping struct {
	start, end  uintptr
	permissions string
	path        string
}

// mappings reads the kernel's list.
func mappings() ([]mapping, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("reading the process's mappings: %w", err)
	}
	defer func() { _ = f.Close() }()
	var all []mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var m mapping
		var offset, device, inode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %s", &m.start, &m.end, &m.permissions, &offset, &device, &inode); err != nil {
			return nil, fmt.Errorf("reading the process's mappings: %w", err)
		}
		if fields := strings.Fields(lines.Text()); len(fields) > 5 {
			m.path = fields[5]
		}
		all = append(all, m)
	}
	return all, lines.Err()
}

// lockData locks writable memory, now and from now on: only that can have a secret in it. It locks
// pages as they are used, since Go reserves far more than that.
func lockData() error {
	if err := unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("locking memory: %w", err)
	}
	all, err := mappings()
	if err != nil {
		return err
	}
	for _, m := range all {
		if !strings.HasPrefix(m.permissions, "rw") && !strings.HasPrefix(m.permissions, "---") || strings.HasPrefix(m.path, "[v") {
			continue
		}
		if _, _, e := unix.Syscall(unix.SYS_MLOCK2, m.start, m.end-m.start, mlockOnFault); e != 0 {
			return fmt.Errorf("locking memory: %w", e)
		}
	}
	return nil
}

// mlockOnFault is MLOCK_ONFAULT of mlock2(2).
const mlockOnFault = 1

// releasePages returns the pages of the heap and of the program file that only the start needed. The
// kernel reads the latter again if they are needed again.
func releasePages() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("finding the program file: %w", err)
	}
	all, err := mappings()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.path != program || strings.Contains(m.permissions, "w") {
			continue
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("giving back pages of the program file: %w", e)
		}
	}
	return nil
}

const (
	// lookForStart is how often trimMemory checks whether the start has finished.
	lookForStart      = time.Second
	releasePagesEvery = time.Hour
)

// trimMemory returns memory once the start has finished, and once in a while.
func trimMemory(ctx context.Context, started func() bool, log *slog.Logger) {
	tick := time.NewTicker(lookForStart)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !started() {
			continue
		}
		if err := releasePages(); err != nil {
			log.Debug("memory could not be given back", logkey.Error, err)
		}
		tick.Reset(releasePagesEvery)
	}
}
