//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// scenario is a case, which gets a namespace of its own.
type scenario struct {
	name string
	run  func(*tenant)
}

// together are the cases that run in parallel: none disturbs another.
func together() []scenario {
	return []scenario{
		{"a pod that is not root reads a 0440 file through its fsGroup", fsGroupReads},
		{"a pod that is not root reads a 0400 file that belongs to it", ownerReads},
		{"file names hold directories", nestedNames},
		{"one pod mounts two classes", twoClasses},
		{"a container sees the volume as read-only", mountFlags},
		{"a pod waits for its class and then starts", classMissing},
		{"a class in another namespace is not found", classElsewhere},
		{"a service account that the role does not name is denied", accountDenied},
		{"the wrong audience is denied", wrongAudience},
		{"kubectl mayfly try accepts a class, or prints the commands that repair it", tryCommand},
		{"the API server refuses classes that cannot work", invalidClasses},
		{"the pod's event names the settings of a class that are ignored", ignoredSettings},
		{"kubectl mayfly explain names the cause of a failure", explainCommand},
		{"a class of API version v1alpha1 works", oldVersion},
		{"the driver's RBAC rules allow what it needs and nothing else", driverRights},
		{"the driver may write its own node's objects only", boundToItsNode},
		{"the pod's event names the invalid field of a class", invalidObjects},
		{"a rotation is seen through the open directory", rotationInOpenDirectory},
		{"an edit of the class reaches the running pod", classEdited},
		{"the applications of examples/ use rotated secrets without a restart", examplesReload},
		{"a file mounted by subPath does not change", subPathStays},
		{"status and events follow a rotation, a denial and a recovery", statusAndEvents},
		{"kubectl mayfly shows volumes and refreshes them, for an admin and for a tenant", statusAndRefresh},
		{"a deleted pod leaves no mount, no folder and no Vault token", podDeleted},
		{"a pod reads Akeyless secrets, and its dynamic credentials are revoked with it", akeylessReads},
		{"Akeyless refuses another service account and another audience", akeylessRefuses},
		{"mayfly-kms runs as a static pod, and serves again after a kill", kmsStaticPod},
		{"the volume of a completed job is unmounted and its Vault token revoked", jobCompletes},
		{"the queries of docs/audit.md find their answers in the three audit logs", auditQueries},
		{"a collector receives the spans of a pod's volume", spansExported},
		{"Prometheus answers every query of the dashboard and the alerts", prometheusAnswers},
		{"who names the subjects that the API server allows, and the pods that read", whoCommand},
		{"doctor checks the cluster, and names what the user may not read", doctorCommand},
	}
}

// apart are the cases that disturb others, so each runs alone.
func apart() []scenario {
	return []scenario{
		{"50 pods start at once with one API server write each", fiftyPods},
		{"kubelet passes tokens in the volume context or in secrets", tokenTransports},
		{"kubectl mayfly explain names a broken installation of the driver", explainDriver},
		{"running pods keep their files while Vault is sealed, and new pods wait", vaultSealed},
		{"a rotation restarts a Deployment once, a driver restart never", rotationRestarts},
		{"pods use the Kubernetes Secrets of their own class", secretsSynced},
		{"files rotate while the API server is down", apiServerDown},
		{"volumes outlive an upgrade of the DaemonSet", driverRolled},
		{"volumes outlive a driver that is killed", driverKilled},
		{"volumes outlive a restart of kubelet", kubeletRestarted},
		{"volumes outlive the driver's removal", driverReinstalled},
		{"the commands and manifests of the docs run", docsRun},
		{"the start-up taint keeps pods away until the driver is ready", taintRemoved},
		{"pods start again after a reboot of the node", nodeRebooted},
	}
}

func TestE2E(t *testing.T) {
	t.Run("together", func(t *testing.T) {
		t.Cleanup(func() {
			if shared.checkLogs(t) == 0 {
				t.Error("there is no audit trail in the driver's logs")
			}
		})
		for _, s := range together() {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				runScenario(t, s)
			})
		}
	})
	for _, s := range apart() {
		t.Run(s.name, func(t *testing.T) {
			testkit.Must(t, context.Cause(shared.ctx))
			testkit.Must(t, shared.driver.reinstallIfBroken(t.Context()))
			runScenario(t, s)
			shared.checkLogs(t)
		})
	}
}

func runScenario(t *testing.T, s scenario) {
	began := time.Now()
	t.Cleanup(func() { shared.results.record(t, s.name, began) })
	c := shared.newTenant(t)
	s.run(c)
}

const tearDownTimeout = 2 * time.Minute

// shared is the environment of all cases. TestMain sets it before any of them.
var shared *environment

func TestMain(m *testing.M) {
	// The tear-down must run even when the reader of the output has ended.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, m)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (code int) {
	began := time.Now()
	e := newEnvironment(os.Stderr)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tearDownTimeout)
		defer cancel()
		if err := e.tearDown(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: tearing down:", err)
			code = max(code, 1)
		}
		fmt.Fprintf(os.Stderr, "e2e: %s in all\n", time.Since(began).Round(time.Second))
	}()
	if err := e.setUp(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: setting up:", err)
		return 1
	}
	// An interrupt ends the cases by stopping their environment; the tear-down then still runs.
	stop := context.AfterFunc(ctx, func() { e.interrupt(errors.New("interrupted")) })
	defer stop()
	e.logf("ready after %s", time.Since(began).Round(100*time.Millisecond))
	shared = e
	code = m.Run()
	e.results.print(os.Stderr)
	return code
}

// results are the data of the summary: the result of each case, and the measurements.
type results struct {
	mu    sync.Mutex
	cases []result
	facts []string
}

type result struct {
	name, outcome string
	took          time.Duration
}

func (r *results) record(t *testing.T, name string, began time.Time) {
	outcome := "ok"
	switch {
	case t.Failed():
		outcome = "FAILED"
	case t.Skipped():
		outcome = "skipped"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cases = append(r.cases, result{name, outcome, time.Since(began)})
}

// measured adds a line to the summary.
func (r *results) measured(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.facts = append(r.facts, fmt.Sprintf(format, args...))
}

func (r *results) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nCASE\tRESULT\tTIME")
	for _, c := range r.cases {
		fmt.Fprintf(table, "%s\t%s\t%.1fs\n", c.name, c.outcome, c.took.Seconds())
	}
	_ = table.Flush()
	fmt.Fprintln(w)
	for _, fact := range r.facts {
		fmt.Fprintln(w, fact)
	}
}
