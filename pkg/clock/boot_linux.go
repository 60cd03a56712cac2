package clock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SinceBoot is the Boot of this node.
func SinceBoot() (time.Duration, string) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var now unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0, ""
	}
	return time.Duration(now.Nano()), strings.TrimSpace(string(id))
}
