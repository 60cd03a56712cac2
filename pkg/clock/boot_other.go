//go:build !linux

package clock

import "time"

// SinceBoot is not known on machines that are no nodes.
func SinceBoot() (time.Duration, string) { return 0, "" }
