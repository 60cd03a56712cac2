//go:build !linux

package clock

import "time"

// SinceBoot knows nothing on systems other than Linux, which cannot be nodes.
func SinceBoot() (time.Duration, string) { return 0, "" }
