package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// requests are those to a store, by kind, from Vault's audit log, without this program's own as
// root, or from the counts of Akeyless' double.
type requests struct {
	Logins int `json:"logins"`
	Reads  int `json:"reads"`
	// Checks ask for the version of a secret, which is cheaper than to read it
	// where the policy allows it.
	Checks int `json:"checks"`
	Other  int `json:"other"`
	// OtherPaths are the kinds that Other sums.
	OtherPaths map[string]int `json:"otherPaths,omitempty"`
}

func (r requests) total() int { return r.Logins + r.Reads + r.Checks + r.Other }

func (r requests) String() string {
	text := fmt.Sprintf("%s, %s", plural(r.Logins, "login"), plural(r.Reads, "read"))
	if r.Checks > 0 {
		text += ", " + plural(r.Checks, "version check")
	}
	if r.Other > 0 {
		text += fmt.Sprintf(", %d other", r.Other)
	}
	return text
}

func isRead(path string) bool { return strings.HasPrefix(path, "kv/data/") }

func countRequests(entries []vaulttest.AuditEntry) requests {
	paths, root := map[string]string{}, map[string]bool{}
	for _, e := range entries {
		paths[e.RequestID] = e.Path
		root[e.RequestID] = root[e.RequestID] || e.DisplayName == "root"
	}
	r := requests{OtherPaths: map[string]int{}}
	for id, path := range paths {
		switch {
		case root[id]:
		case strings.HasSuffix(path, "/login"):
			r.Logins++
		case isRead(path):
			r.Reads++
		case strings.HasPrefix(path, "kv/metadata/"):
			r.Checks++
		default:
			r.Other++
			r.OtherPaths[path]++
		}
	}
	return r
}

// quiet is how long a store must have no request to count as idle, which must happen within
// quietTimeout.
const (
	quiet        = 250 * time.Millisecond
	quietTimeout = 20 * time.Second
)

// waitQuiet waits until state has not changed for some time.
func waitQuiet[T comparable](ctx context.Context, still, limit time.Duration, state func() (T, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it does not come to rest within %s", limit))
	defer cancel()
	last, err := state()
	if err != nil {
		return err
	}
	since := time.Now()
	return testkit.Poll(ctx, still/10, func() (bool, error) {
		now, err := state()
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) >= still, err
	})
}

// apiQuiet is longer than the driver's pauses between writes of statuses and Events, of which it
// makes a few a second.
const (
	apiQuiet        = time.Second
	apiQuietTimeout = 10 * time.Minute
)

// waitForStatuses waits until the API server has the status of that many volumes and no others, and the
// driver has nothing more to write.
func (w *world) waitForStatuses(ctx context.Context, volumes int) error {
	there := 0
	err := waitQuiet(ctx, apiQuiet, apiQuietTimeout, func() (string, error) {
		var err error
		if there, err = w.api.Statuses(ctx); err != nil || there != volumes {
			return time.Now().String(), err // not idle
		}
		requests, err := w.api.Requests()
		return fmt.Sprint(requests), err
	})
	if err != nil {
		return fmt.Errorf("waiting for the statuses of %d volumes, of which there are %d: %w",
			volumes, there, err)
	}
	return nil
}

// apiSince is the requests to the API server since an earlier count.
func (w *world) apiSince(before map[string]int) (map[string]int, error) {
	now, err := w.api.Requests()
	return subtract(now, before), err
}

// subtract subtracts earlier counts from the present ones, and leaves out what did not change.
func subtract(now, before map[string]int) map[string]int {
	for what, n := range before {
		now[what] -= n
	}
	maps.DeleteFunc(now, func(_ string, n int) bool { return n == 0 })
	return now
}

// writes is how many requests to the API server changed something there.
func writes(counts map[string]int) int {
	n := 0
	for what, count := range counts {
		switch what[strings.LastIndexByte(what, ' ')+1:] {
		case "get", "list", "watch":
		default:
			n += count
		}
	}
	return n
}

func verbs(counts map[string]int) string {
	if len(counts) == 0 {
		return "no request"
	}
	var words []string
	for _, verb := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[verb], verb))
	}
	return strings.Join(words, ", ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
