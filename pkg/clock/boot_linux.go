package clock

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bootID is read once, since a process does not outlive the boot. Empty if it cannot be read.
var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
})

// SinceBoot is the Boot of this node.
func SinceBoot() (time.Duration, string) {
	var now unix.Timespec
	if bootID() == "" || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0, ""
	}
	return time.Duration(now.Nano()), bootID()
}
