package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

func contentAttacks() []attack {
	return []attack{{
		name: "contents", does: "8 volumes of 15 MB, which are new in every interval of 5 s", servers: 1, after: later,
		prepare: func(s *scene) error {
			s.servers[0].read = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"request_id":"1","data":{"k":"%d`, time.Now().UnixNano())
				if writeFill(w, 15e6) == nil {
					_, _ = io.WriteString(w, `"}}`)
				}
			}
			return nil
		},
		run: func(ctx context.Context, s *scene) {
			s.put(s.name(), s.parameters(0, oneObject, "refreshInterval", "5s"))
			s.mount(ctx, s.podsOf(s.name(), 8, true)...)
		},
		judge: func(s *scene) verdict {
			return throughIf(s.peakBytes > s.limit/2, "%s in its volumes at most, of a limit of %s", mib(s.peakBytes), mib(s.limit))
		},
	}}
}

// stateUse is how much of the driver's state is used.
func stateUse(dir string) (used, size int64) {
	var stat unix.Statfs_t
	if unix.Statfs(dir, &stat) != nil || stat.Type != unix.TMPFS_MAGIC {
		return 0, 0
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize, int64(stat.Blocks) * stat.Bsize //nolint:gosec // a tmpfs is small
}
