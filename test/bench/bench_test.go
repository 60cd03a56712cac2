package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
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
