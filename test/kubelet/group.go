package kubelet

import (
	"bufio"
	"fmt"
	"os"
)

// MappedGroup is the group itself or, in a user namespace that does not have
// it, the namespace's root group: an ordinary user's tests run in one.
func MappedGroup(gid int) int {
	f, err := os.Open("/proc/self/gid_map")
	if err != nil {
		return gid
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var inside, outside, count int
		if n, _ := fmt.Sscan(lines.Text(), &inside, &outside, &count); n == 3 && gid >= inside && gid < inside+count {
			return gid
		}
	}
	return 0
}
