package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/apiserver"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// run builds the benchmark and runs a very small one.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	tmp := t.TempDir()
	cmd := exec.Command(program, append([]string{
		"--pods=4", "--at-once=2", "--rounds=1", "--classes=20", "--republish=2", "--interval=1s",
		"--steady-interval=1s", "--steady-intervals=2", "--outage=3s", "--akeyless-latency=2ms", "--akeyless-cached-latency=1ms",
	}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() == 3 {
		t.Skipf("this user cannot mount file systems here:\n%s", errs.String())
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v %v", left, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestBench measures the real driver on a real Vault. The counts must be right; the test ignores
// the times.
func TestBench(t *testing.T) {
	stdout, stderr, code := run(t, "--json")
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, stderr)
	}
	var r results
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v:\n%s", err, stdout)
	}
	for name, c := range map[string]struct{ got, want int }{
		"rounds of the floor":           {len(r.First.Floor), 1},
		"logins of the floor":           {r.First.FloorRequests.Logins, 4},
		"reads of the floor":            {r.First.FloorRequests.Reads, 8},
		"rounds of the driver":          {len(r.First.Many.Wall), 1},
		"logins with as many accounts":  {r.First.Many.Requests.Logins, 4},
		"logins with one account":       {r.First.One.Requests.Logins, 1},
		"republishes":                   {r.Republish.Calls, 8},
		"Vault requests of republishes": {r.Republish.Vault.total(), 0},
		"API requests of republishes":   {len(r.Republish.API), 0},
		"Vault requests of a restart":   {r.Restart.Vault.total(), 0},
		"pairs with one account":        {r.RestOne.Pairs, 2},
		"pairs with as many accounts":   {r.RestAll.Pairs, 8},
		"logins in steady state":        {r.RestOne.Vault.Logins + r.RestAll.Vault.Logins, 0},
		"API writes in steady state":    {writes(r.RestOne.API) + writes(r.RestAll.API), 0},
		"volumes in the outage":         {r.Outage.Volumes, 4},
		"calls of the plugin":           {r.Plugin.Calls, 4},
		"logins of Akeyless' floor":     {r.Akeyless.FloorRequests.Logins, 4},
		"reads of Akeyless' floor":      {r.Akeyless.FloorRequests.Reads, 8},
		"logins to Akeyless":            {r.Akeyless.Many.Requests.Logins, 4},
		"reads from Akeyless":           {r.Akeyless.Many.Requests.Reads, 8},
		"logins, package, Akeyless":     {r.Akeyless.Alone.Requests.Logins, 4},
		"reads, package, Akeyless":      {r.Akeyless.Alone.Requests.Reads, 8},
		"logins, one account, Akeyless": {r.Akeyless.One.Requests.Logins, 1},
		"reads, one account, Akeyless":  {r.Akeyless.One.Requests.Reads, 2},
		"logins to Akeyless, cached":    {r.AkeylessCached.Many.Requests.Logins, 4},
		"all Akeyless requests":         {r.Akeyless.Many.Requests.total() + r.Akeyless.One.Requests.total(), 15},
		"sets with a Secret":            {len(r.Synced.With), 2},
		"sets without one":              {len(r.Synced.Without), 2},
		"writes of the Secret":          {r.Synced.API["secret apply"], 1},
		"pairs of lives":                {len(r.Observed.On.CPU), observedPairs},
		"spans of all lives":            {r.Observed.Spans, (1 + observedPairs) * 4 * 11}, // 9 of a publish, 2 of a release
		"audit lines of all lives":      {r.Observed.Lines, (1 + observedPairs) * 4 * 4},  // publish, login, unpublish, release
		"starts":                        {len(r.API.Ready), starts},
		"starts with a directory":       {len(r.Dir.Ready), starts},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	if r.API.RSS == 0 || r.Dir.RSS == 0 || r.Large.RSS == 0 || r.API.Peak < r.API.RSS {
		t.Errorf("memory: %+v, %+v, %+v", r.API, r.Dir, r.Large)
	}
	if r.ChangeOne.AllNew == 0 || r.ChangeAll.Vault.Reads == 0 {
		t.Errorf("change: %+v, %+v", r.ChangeOne, r.ChangeAll)
	}
	if r.RestOne.Vault.Reads == 0 || r.RestAll.Vault.Reads == 0 || r.Outage.Requests == 0 || r.Outage.AllFresh == 0 || r.Plugin.Publish == 0 || r.Plugin.Remembered == 0 {
		t.Errorf("later parts: %+v, %+v, %+v, %+v", r.RestOne, r.RestAll, r.Outage, r.Plugin)
	}
	if r.Binary.Bytes == 0 || r.Binary.Given {
		t.Errorf("binary: %+v", r.Binary)
	}
	if r.Machine.Mayfly == "" || r.Machine.Vault == "" || r.Machine.Memory == 0 {
		t.Errorf("machine: %+v", r.Machine)
	}
}

func TestBenchFailsWithTheDriver(t *testing.T) {
	stdout, stderr, code := run(t, "--mayfly-node=/bin/false")
	if code == 0 || stdout != "" {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

func TestFlags(t *testing.T) {
	good := config{
		pods: 1, atOnce: 1, rounds: 1, republish: 1, interval: time.Second,
		steadyInterval: time.Second, steadyIntervals: 1, outage: 2 * time.Second,
	}
	for name, change := range map[string]func(c *config){
		"no pods":       func(c *config) { c.pods = 0 },
		"none at once":  func(c *config) { c.atOnce = 0 },
		"fast interval": func(c *config) { c.interval = time.Millisecond },
		"fast rest":     func(c *config) { c.steadyInterval = time.Millisecond },
		"no rest":       func(c *config) { c.steadyIntervals = 0 },
		"short outage":  func(c *config) { c.outage = time.Second },
		"negative time": func(c *config) { c.akeylessLatency = -1 },
		"and another":   func(c *config) { c.akeylessCached = -1 },
		"two formats":   func(c *config) { c.json, c.markdown = true, true },
	} {
		bad := good
		change(&bad)
		if bad.finish() == nil {
			t.Errorf("%s: %+v passes", name, bad)
		}
	}
	testkit.Must(t, good.finish())
}

// TestCheckFindsWrongFiles checks that wrong work fails.
func TestCheckFindsWrongFiles(t *testing.T) {
	n, pods := simulatedNode(t)
	testkit.Must(t, n.check(pods, "1"))
	if err := n.check(pods, "2"); err == nil || !strings.Contains(err.Error(), "pod check-0 holds") {
		t.Errorf("old contents pass: %v", err)
	}
	testkit.Must(t, os.Remove(filepath.Join(n.kubelet.Target(pods[0]), "..data", "api-key")))
	if n.check(pods, "1") == nil {
		t.Error("a missing file passes")
	}
}

// simulatedNode has one volume in the driver's layout.
func simulatedNode(t *testing.T) (*node, podList) {
	t.Helper()
	iss := testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	t.Cleanup(func() { _ = iss.Close() })
	k := testkit.Value(kubelet.Dial(t.TempDir(), "/nowhere"))(t)
	t.Cleanup(func() { _ = k.Close() })
	w := &world{config: config{pods: 1, atOnce: 1}, issuer: iss}
	n := &node{world: w, kubelet: k}
	pods := w.pods("check", steady, 1)
	for path, contents := range wanted(steady, "1") {
		file := filepath.Join(k.Target(pods[0]), "..one", path)
		testkit.Must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		testkit.Must(t, os.WriteFile(file, []byte(contents), 0o600))
	}
	for link, to := range map[string]string{"..data": "..one", "db": "..data/db", "api-key": "..data/api-key"} {
		testkit.Must(t, os.Symlink(to, filepath.Join(k.Target(pods[0]), link)))
	}
	return n, pods
}

func TestPods(t *testing.T) {
	n, _ := simulatedNode(t)
	n.config.pods = 4
	accounts, uids := map[string]bool{}, map[string]bool{}
	for _, p := range append(n.pods("a", steady, 2), n.pods("b", steady, 2)...) {
		accounts[p.ServiceAccount], uids[p.UID] = true, true
		if token, err := serviceAccountToken(p); err != nil || strings.Count(token, ".") != 2 {
			t.Errorf("pod %s: token %q, %v", p.Name, token, err)
		}
	}
	if len(accounts) != 4 || len(uids) != 8 {
		t.Errorf("%d service accounts and %d pods, want 4 and 8", len(accounts), len(uids))
	}
}

func TestNumbers(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("median of three: %v", got)
	}
	if got := median([]float64{4, 1, 2, 9}); got != 3 {
		t.Errorf("median of four: %v", got)
	}
	if got := median(nil); got != 0 {
		t.Errorf("median of none: %v", got)
	}
	sorted := make([]int, 100)
	for i := range sorted {
		sorted[i] = i + 1
	}
	if p50, p99, p100 := percentile(sorted, 0.5), percentile(sorted, 0.99), percentile(sorted, 1); p50 != 51 || p99 != 100 || p100 != 100 {
		t.Errorf("percentiles: %d, %d, %d", p50, p99, p100)
	}
	if low, high := spread([]float64{2, 9, 4}, []float64{1, 3, 1}); low != 2 || high != 4 {
		t.Errorf("spread: %v, %v", low, high)
	}
}

func TestCountRequests(t *testing.T) {
	entries := []vaulttest.AuditEntry{
		{RequestID: "1", Type: "request", Path: "auth/kubernetes/login"},
		{RequestID: "1", Type: "response", Path: "auth/kubernetes/login", DisplayName: "kubernetes-bench-a"},
		{RequestID: "2", Path: "kv/data/steady/db", DisplayName: "kubernetes-bench-a"},
		{RequestID: "3", Path: "kv/metadata/steady/db"},
		{RequestID: "4", Path: "auth/token/revoke-self"},
		{RequestID: "5", Type: "request", Path: "kv/data/steady/db", DisplayName: "root"},
		{RequestID: "5", Type: "response", Path: "kv/data/steady/db", DisplayName: "root"},
	}
	want := requests{Logins: 1, Reads: 1, Checks: 1, Other: 1, OtherPaths: map[string]int{"auth/token/revoke-self": 1}}
	if got := countRequests(entries); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWaitQuiet(t *testing.T) {
	states := []int{1, 2, 3, 3, 3}
	asked := 0
	err := waitQuiet(t.Context(), 5*time.Millisecond, time.Minute, func() (int, error) {
		asked++
		return states[min(asked, len(states))-1], nil
	})
	if err != nil || asked < 4 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	boom := errors.New("boom")
	if err := waitQuiet(t.Context(), time.Hour, time.Minute, func() (int, error) { return 0, boom }); !errors.Is(err, boom) {
		t.Errorf("a failure is lost: %v", err)
	}
	err = waitQuiet(t.Context(), time.Hour, time.Millisecond, func() (int, error) { return 0, nil })
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the reason is not told: %v", err)
	}
}

// TestAPIServer asks as client-go does.
func TestAPIServer(t *testing.T) {
	a := apiserver.Start(withUnrelated(map[string][]byte{steady: manifest(namespace, steady, "vault", vaultParameters(steady, "http://127.0.0.1:1", ""))}, 25))
	t.Cleanup(a.Close)
	const base = "/apis/secrets-store.csi.x-k8s.io/v1"
	list := func(path string) int {
		var answer struct {
			Items []struct{ Metadata struct{ Name string } }
		}
		ask(t, a, http.MethodGet, path, "", http.StatusOK, &answer)
		return len(answer.Items)
	}
	if n := list(base + "/secretproviderclasses"); n != 26 {
		t.Errorf("the cluster has %d classes", n)
	}
	if n := list(base + "/namespaces/team-0002/secretproviderclasses"); n != 5 {
		t.Errorf("the last namespace has %d classes", n)
	}
	if n := list(base + "/namespaces/bench/secretproviderclasses?fieldSelector=metadata.name%3Dsteady"); n != 1 {
		t.Errorf("%d classes are called so", n)
	}
	ask(t, a, http.MethodGet, base+"/namespaces/bench/secretproviderclasses/none", "", http.StatusNotFound, nil)
	statuses := base + "/namespaces/bench/secretproviderclasspodstatuses"
	const status = `{"metadata":{"name":"a"},"status":{"mounted":true}}`
	ask(t, a, http.MethodPut, statuses+"/a", status, http.StatusNotFound, nil)
	ask(t, a, http.MethodPost, statuses, status, http.StatusCreated, nil)
	ask(t, a, http.MethodPost, statuses, status, http.StatusConflict, nil)
	ask(t, a, http.MethodPut, statuses+"/a", status, http.StatusOK, nil)
	if n := a.Written.Count("secretproviderclasspodstatuses"); n != 1 {
		t.Errorf("%d statuses", n)
	}
	if n := list(base + "/secretproviderclasspodstatuses?labelSelector=x%3Dy"); n != 1 {
		t.Errorf("%d statuses are listed", n)
	}
	ask(t, a, http.MethodDelete, statuses+"/a", "", http.StatusOK, nil)
	ask(t, a, http.MethodGet, statuses+"/a", "", http.StatusNotFound, nil)
	ask(t, a, http.MethodPost, statuses, status, http.StatusCreated, nil)
	if a.Written.Collect(); a.Written.Count("secretproviderclasspodstatuses") != 0 {
		t.Error("a status is left by the garbage collector")
	}
	want := map[string]int{"class list": 3, "class get": 1, "status create": 3, "status update": 2, "status delete": 1, "status list": 1, "status get": 1}
	if got := a.Requests(); !reflect.DeepEqual(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func ask(t *testing.T, a *apiserver.Server, method, path, body string, code int, answer any) {
	t.Helper()
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.Code != code {
		t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, code)
	}
	if answer != nil {
		testkit.Must(t, json.Unmarshal(w.Body.Bytes(), answer))
	}
}

func TestVerdicts(t *testing.T) {
	f := firstPublishes{Floor: []float64{100, 110}}
	for name, tc := range map[string]struct {
		p    publishes
		want bool
	}{
		"fast":            {publishes{Wall: []float64{120, 130}, Requests: requests{Logins: 2, Reads: 4}}, true},
		"slow":            {publishes{Wall: []float64{150, 150}, Requests: requests{Logins: 2, Reads: 4}}, false},
		"too many logins": {publishes{Wall: []float64{120, 130}, Requests: requests{Logins: 3, Reads: 4}}, false},
		"too many reads":  {publishes{Wall: []float64{120, 130}, Requests: requests{Logins: 2, Reads: 5}}, false},
	} {
		if got := f.row("x", tc.p, targetMany, 2, 4); got.Met != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
