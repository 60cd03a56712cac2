//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// The driver's metrics of successful NodePublishVolume calls.
const (
	publishCalls = `mayfly_grpc_call_duration_seconds_count{code="OK",method="NodePublishVolume"`
	publishTime  = `mayfly_grpc_call_duration_seconds_sum{code="OK",method="NodePublishVolume"`
)

// samples are metrics in Prometheus' text format, by their name and labels.
type samples map[string]float64

func parseSamples(text string) samples {
	found := samples{}
	for line := range strings.Lines(text) {
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64); err == nil {
			found[line[:at]] = value
		}
	}
	return found
}

// sum adds up the samples with this prefix and all of the labels.
func (s samples) sum(prefix string, labels ...string) float64 {
	total := 0.0
	for name, value := range s {
		if rest, ok := strings.CutPrefix(name, prefix); ok && (rest == "" || strings.ContainsAny(rest[:1], "{,}")) && containsAll(name, labels) {
			total += value
		}
	}
	return total
}

// metrics reads the driver's metrics.
func (r *release) metrics(ctx context.Context) (samples, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.metricsAddress()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking for the driver's metrics: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the driver's metrics: %w", err)
	}
	return parseSamples(string(text)), nil
}

func (c *tenant) driverMetrics() samples {
	c.t.Helper()
	s := testkit.Value(c.driver.metrics(c.t.Context()))(c.t)
	return s
}

// writes count requests that change pod statuses.
type writes struct{ creates, others int }

// statusWrites reads from the API server's metrics how often pod statuses were written. Only the driver
// writes them.
func (e *environment) statusWrites(ctx context.Context) (writes, error) {
	text, err := e.api.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return writes{}, fmt.Errorf("asking for the API server's metrics: %w", err)
	}
	s := parseSamples(string(text))
	of := func(verb string) int {
		return int(s.sum("apiserver_request_total", `resource="`+v1.SecretProviderClassPodStatusResource+`"`, `verb="`+verb+`"`))
	}
	return writes{creates: of("POST"), others: of("PUT") + of("PATCH") + of("APPLY")}, nil
}

// requests counts one user's requests to the API server by "verb resource".
type requests map[string]int

// writes returns the number of requests that are not reads.
func (r requests) writes() int {
	total := 0
	for what, n := range r {
		switch verb, _, _ := strings.Cut(what, " "); verb {
		case "get", "list", "watch":
		default:
			total += n
		}
	}
	return total
}

func (r requests) String() string {
	var text []string
	for _, what := range slices.Sorted(maps.Keys(r)) {
		text = append(text, fmt.Sprintf("%d %s", r[what], what))
	}
	if len(text) == 0 {
		return "none"
	}
	return strings.Join(text, ", ")
}

// auditEntry is the part of an audit log's line that the tests use.
type auditEntry struct {
	Stage, Verb    string
	User           struct{ Username string }
	ObjectRef      struct{ Resource, Namespace string }
	ResponseStatus struct{ Code int }
}

// auditedSince counts the driver's selected requests in the API server's audit log after offset.
func (e *environment) auditedSince(offset int64, counts func(auditEntry) bool) (requests, error) {
	file, err := os.Open(e.node.AuditLog())
	if err != nil {
		return nil, fmt.Errorf("opening the API server's audit log: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.NewSectionReader(file, offset, 1<<62))
	if err != nil {
		return nil, fmt.Errorf("reading the API server's audit log: %w", err)
	}
	found := requests{}
	for line := range strings.Lines(string(data)) {
		var entry auditEntry
		if !strings.HasSuffix(line, "\n") || json.Unmarshal([]byte(line), &entry) != nil {
			continue // still being written
		}
		if entry.Stage == "ResponseComplete" && entry.User.Username == driverUser && counts(entry) {
			found[entry.Verb+" "+entry.ObjectRef.Resource]++
		}
	}
	return found, nil
}

// tally is a moment from which costs are counted.
type tally struct {
	server writes
	audit  int64
}

func (c *tenant) tally() tally {
	c.t.Helper()
	server := testkit.Value(c.statusWrites(c.t.Context()))(c.t)
	info := testkit.Value(os.Stat(c.node.AuditLog()))(c.t)
	return tally{server: server, audit: info.Size()}
}

func (c *tenant) costSince(ctx context.Context, t tally) (cost, error) {
	now, err := c.statusWrites(ctx)
	if err != nil {
		return cost{}, err
	}
	// The driver may still write about the pods of earlier cases.
	driver, err := c.auditedSince(t.audit, func(e auditEntry) bool {
		return e.ObjectRef.Namespace == c.ns || !strings.HasPrefix(e.ObjectRef.Namespace, tenantPrefix)
	})
	return cost{writes{now.creates - t.server.creates, now.others - t.server.others}, driver}, err
}

func (c *tenant) vaultMark() vaulttest.Mark {
	c.t.Helper()
	mark := testkit.Value(c.vault.Mark())(c.t)
	return mark
}

// writesSince counts the driver's successful writes in the tenant's namespace.
func (c *tenant) writesSince(t tally) int {
	c.t.Helper()
	found, err := c.auditedSince(t.audit, func(e auditEntry) bool {
		return e.ObjectRef.Namespace == c.ns && e.ResponseStatus.Code < http.StatusBadRequest
	})
	testkit.Must(c.t, err)
	return found.writes()
}

// checkVaultCost checks that one login served all volumes, which have one service account.
func (c *tenant) checkVaultCost(since vaulttest.Mark) {
	c.t.Helper()
	counts := testkit.Value(c.vault.CountRequests(c.t.Context(), since))(c.t)
	c.results.measured("Vault, %d volumes of one service account until then: %d logins, %d reads, %d requests in all",
		manyPods, counts[loginPath], counts.Under(kvMount+"/data/"), counts.Under(""))
	if n := counts[loginPath]; n != 1 {
		c.t.Errorf("there were %d logins, want one", n)
	}
}
