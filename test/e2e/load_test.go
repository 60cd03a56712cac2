//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	manyPods = 50
	// creators is how many pods are created at the same moment.
	creators = 10
)

// fiftyPods measures how long pods take to start with and without a volume, and checks the number of
// requests to the API server and Vault.
func fiftyPods(c *tenant) {
	testkit.Must(c.t, c.awaitOtherNamespacesGone(c.t.Context()))
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	script := `exec sleep 100000`
	without := c.startMany("plain", script)
	c.deleteAll()

	before, mark, idle := c.tally(), c.vaultMark(), c.driverMetrics()
	with := c.startMany("mounting", `cat /secrets/password >/dev/null && exec sleep 100000`, mounts("db"))
	inDriver := time.Duration((c.driverMetrics().sum(publishTime) - idle.sum(publishTime)) / manyPods * float64(time.Second))
	c.checkPublishCost(before)
	c.checkRefreshCost()
	c.checkVaultCost(mark)
	c.deleteAll()

	// The difference between the two sets without volumes is measurement noise.
	again := c.startMany("again", script)
	c.results.measured("pod to running, %d at once: without a volume %s and again %s, with a Mayfly volume %s, of which %s a pod in the driver",
		manyPods, spread(without), spread(again), spread(with), inDriver.Round(100*time.Microsecond))
	c.deleteAll()
}

func (c *tenant) awaitOtherNamespacesGone(ctx context.Context) error {
	return c.poll(ctx, "earlier cases' namespaces to go", func(ctx context.Context) error {
		list, err := c.api.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: tenantLabel})
		if err == nil && len(list.Items) > 1 {
			err = fmt.Errorf("there are %d", len(list.Items))
		}
		return err
	})
}

// startMany starts pods at once, and returns how long each took from its creation until it ran.
func (c *tenant) startMany(prefix, script string, options ...func(*corev1.Pod)) []time.Duration {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*waitTimeout)
	defer cancel()
	pods := c.api.CoreV1().Pods(c.ns)
	created := make([]time.Time, manyPods)
	creating, creatingCtx := errgroup.WithContext(ctx)
	creating.SetLimit(creators)
	running := make(chan map[string]time.Time, 1)
	watching, watchingCtx := errgroup.WithContext(ctx)
	watching.Go(func() error {
		seen, err := c.awaitRunning(watchingCtx, "set="+prefix)
		running <- seen
		return err
	})
	for i := range manyPods {
		creating.Go(func() error {
			pod := newPod(fmt.Sprintf("%s-%d", prefix, i), script, append(options, labelled(map[string]string{"set": prefix}))...)
			created[i] = time.Now()
			_, err := pods.Create(creatingCtx, pod, metav1.CreateOptions{})
			return err
		})
	}
	testkit.Must(c.t, creating.Wait())
	testkit.Must(c.t, watching.Wait())
	seen := <-running
	took := make([]time.Duration, manyPods)
	for i := range took {
		took[i] = seen[fmt.Sprintf("%s-%d", prefix, i)].Sub(created[i])
	}
	return took
}

// awaitRunning records when each pod first runs, until all do. The API server may end a watch at
// any time; a new one begins with the present state.
func (c *tenant) awaitRunning(ctx context.Context, selector string) (map[string]time.Time, error) {
	seen := map[string]time.Time{}
	for len(seen) < manyPods {
		events, err := c.api.CoreV1().Pods(c.ns).Watch(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return seen, fmt.Errorf("watching for %d pods to run, %d do: %w", manyPods, len(seen), err)
		}
		for event := range events.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && isRunning(pod) == nil && seen[pod.Name].IsZero() {
				seen[pod.Name] = time.Now()
			}
			if len(seen) == manyPods {
				break
			}
		}
		events.Stop()
	}
	return seen, nil
}

func spread(all []time.Duration) string {
	return fmt.Sprintf("p50 %s p99 %s", percentile(all, 50), percentile(all, 99))
}

func percentile(all []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)*p-1)/100].Round(10 * time.Millisecond)
}

func (c *tenant) deleteAll() {
	c.t.Helper()
	testkit.Must(c.t, c.api.CoreV1().Pods(c.ns).DeleteCollection(c.t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	c.until("all pods to go", func(ctx context.Context) error {
		list, err := c.api.CoreV1().Pods(c.ns).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}

func (c *tenant) checkPublishCost(before tally) {
	c.t.Helper()
	c.until("a status for every volume", func(ctx context.Context) error {
		cost, err := c.costSince(ctx, before)
		if err == nil && cost.server.creates < manyPods {
			err = fmt.Errorf("there are %d", cost.server.creates)
		}
		return err
	})
	cost := testkit.Value(c.costSince(c.t.Context(), before))(c.t)
	c.results.measured("API server, %d first publishes: %s", manyPods, cost)
	if cost.server != (writes{creates: manyPods}) {
		c.t.Errorf("by the API server's metrics the statuses had %+v, want one create a volume and nothing else", cost.server)
	}
	if n := cost.driver.writes(); n > manyPods {
		c.t.Errorf("the driver wrote %d times for %d volumes: %v", n, manyPods, cost.driver)
	}
}

// checkRefreshCost waits for three refreshes and one republish per volume on average, and checks that
// they cost no write.
func (c *tenant) checkRefreshCost() {
	c.t.Helper()
	before, start := c.tally(), c.driverMetrics()
	c.until("refreshes and republishes of every volume", func(ctx context.Context) error {
		now, err := c.driver.metrics(ctx)
		if err != nil {
			return err
		}
		refreshes := now.sum("rotation_reconcile_total") - start.sum("rotation_reconcile_total")
		republishes := now.sum(publishCalls) - start.sum(publishCalls)
		if refreshes < 3*manyPods || republishes < manyPods {
			return fmt.Errorf("there are %.0f refreshes and %.0f republishes", refreshes, republishes)
		}
		return nil
	})
	end := c.driverMetrics()
	if n := end.sum("rotation_reconcile_error_total") - start.sum("rotation_reconcile_error_total"); n > 0 {
		c.t.Errorf("%.0f refreshes failed", n)
	}
	cost := testkit.Value(c.costSince(c.t.Context(), before))(c.t)
	c.results.measured("API server, %.0f unchanged refreshes and %.0f republishes: %s",
		end.sum("rotation_reconcile_total")-start.sum("rotation_reconcile_total"), end.sum(publishCalls)-start.sum(publishCalls), cost)
	if cost.server != (writes{}) {
		c.t.Errorf("by the API server's metrics the statuses had %+v, want nothing", cost.server)
	}
	if n := cost.driver.writes(); n > 0 {
		c.t.Errorf("the driver wrote %d times: %v", n, cost.driver)
	}
}

// cost counts the requests to the API server since a tally: writes of pod statuses from its metrics, and
// all of the driver's requests from its audit log.
type cost struct {
	server writes
	driver requests
}

func (c cost) String() string {
	return fmt.Sprintf("%d creates, %d other writes of %s (metrics); all requests of the driver (audit log): %s",
		c.server.creates, c.server.others, v1.SecretProviderClassPodStatusResource, c.driver)
}

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
	text, err := testkit.Page(ctx, "http://"+r.metricsAddress()+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("reading the driver's metrics: %w", err)
	}
	return parseSamples(string(text)), nil
}

func (c *tenant) driverMetrics() samples {
	c.t.Helper()
	return testkit.Value(c.driver.metrics(c.t.Context()))(c.t)
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

// auditedSince counts the driver's selected requests in the API server's audit log after offset.
func (e *environment) auditedSince(offset int64, counts func(controlplane.Event) bool) (requests, error) {
	entries, _, err := controlplane.AuditEvents(e.node.AuditLog(), offset)
	found := requests{}
	for _, entry := range entries {
		if entry.Stage == "ResponseComplete" && entry.User.Username == driverUser && counts(entry) {
			found[entry.Verb+" "+entry.ObjectRef.Resource]++
		}
	}
	return found, err
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
	driver, err := c.auditedSince(t.audit, func(e controlplane.Event) bool {
		return e.ObjectRef.Namespace == c.ns || !strings.HasPrefix(e.ObjectRef.Namespace, tenantPrefix)
	})
	return cost{writes{now.creates - t.server.creates, now.others - t.server.others}, driver}, err
}

func (c *tenant) vaultMark() vaulttest.Mark {
	c.t.Helper()
	return testkit.Value(c.vault.Mark())(c.t)
}

// writesSince counts the driver's successful writes in the tenant's namespace.
func (c *tenant) writesSince(t tally) int {
	c.t.Helper()
	found := testkit.Value(c.auditedSince(t.audit, func(e controlplane.Event) bool {
		return e.ObjectRef.Namespace == c.ns && e.ResponseStatus.Code < http.StatusBadRequest
	}))(c.t)
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
