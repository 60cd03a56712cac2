package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestRestVerdicts: every single thing that is too much is seen.
func TestRestVerdicts(t *testing.T) {
	good := func() rested {
		return rested{Accounts: 2, Pairs: 4, Least: 10, Most: 11, Vault: requests{Reads: 41}, API: map[string]int{"class watch": 1}}
	}
	r := &results{Size: size{Pods: 2, SteadyInterval: 5000, SteadyIntervals: 10}}
	if x := r.restRow(good()); !x.Met || x.What != "Steady state, 2 volumes, 2 service accounts, 10 intervals of 5 s" || !strings.Contains(x.Measured, "41 reads: 1.02 an interval for each of 4 pairs") {
		t.Errorf("good: %+v", x)
	}
	for name, spoil := range map[string]func(*rested){
		"a pair too often":   func(s *rested) { s.Most = 12 },
		"a pair too seldom":  func(s *rested) { s.Least = 9 },
		"a login":            func(s *rested) { s.Vault.Logins = 1 },
		"a version check":    func(s *rested) { s.Vault.Checks = 1 },
		"something else":     func(s *rested) { s.Vault.Other = 1 },
		"a write to the API": func(s *rested) { s.API["status update"] = 1 },
	} {
		s := good()
		spoil(&s)
		if x := r.restRow(s); x.Met || x.verdict() != "no" {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

func TestOutageVerdicts(t *testing.T) {
	r := &results{Outage: outage{Lasted: 60000, Requests: 120, AllFresh: 5000}}
	for i, x := range r.outageRows() {
		if !x.Met {
			t.Errorf("%d: %+v", i, x)
		}
	}
	r.Outage.Requests, r.Outage.AllFresh = 121, 5001
	for i, x := range r.outageRows() {
		if x.Met {
			t.Errorf("%d: %+v", i, x)
		}
	}
}

func TestPluginVerdicts(t *testing.T) {
	r := &results{Plugin: pluginTimes{Bare: 0.5, Fetch: 1.5, Publish: 1.75, Remembered: 1.2}}
	rows := r.pluginRows()
	for i, want := range []string{"", "yes", "no"} {
		if got := rows[i].verdict(); got != want {
			t.Errorf("%+v: %q, want %q", rows[i], got, want)
		}
	}
	if got := rows[2].Measured; got != "p50 1.75 ms = 1.25 ms more; the driver's publishes that ask nobody take 1.20 ms" {
		t.Errorf("measured: %q", got)
	}
}

func TestAkeylessVerdicts(t *testing.T) {
	measured := func(wall float64) firstPublishes {
		return firstPublishes{
			Floor: []float64{100}, Many: publishes{Wall: []float64{wall}, Requests: requests{Logins: 2, Reads: 4}}, One: publishes{Wall: []float64{900}},
			Alone: publishes{Wall: []float64{wall - 15}, Requests: requests{Logins: 2, Reads: 4}},
		}
	}
	r := &results{Size: size{Pods: 2, AkeylessLatency: 22.5, AkeylessCached: 2.5}, Akeyless: measured(120), AkeylessCached: measured(140)}
	rows := r.akeylessRows()
	for i, want := range []string{"", "yes", "yes", "", "", "yes", "no", ""} {
		if got := rows[i].verdict(); got != want {
			t.Errorf("%+v: %q, want %q", rows[i], got, want)
		}
	}
	if !strings.Contains(rows[0].What, "service, 22.5 ms an answer") || !strings.Contains(rows[4].What, "cache, 2.5 ms an answer, and asks for logins Akeyless' service, 22.5 ms") {
		t.Errorf("the double's time is not told: %q, %q", rows[0].What, rows[4].What)
	}
	r.Akeyless.Many.Requests.Reads++
	if r.akeylessRows()[2].Met {
		t.Error("a read too many passes")
	}
}

func TestBinaryRow(t *testing.T) {
	r := &results{Binary: binary{Bytes: 26600000, Arch: "amd64"}}
	if x := r.binaryRow(); x.What != "Size of the binary, amd64, stripped" || x.Measured != "26.6 MB" {
		t.Errorf("%+v", x)
	}
	r.Binary.Given = true
	if x := r.binaryRow(); strings.Contains(x.What, "stripped") {
		t.Errorf("nothing is known of a binary that was given: %+v", x)
	}
}

// TestMarkdownHasEveryRow: the table of docs/dev/performance.md is made from it.
func TestMarkdownHasEveryRow(t *testing.T) {
	r := &results{config: config{markdown: true}}
	var b bytes.Buffer
	testkit.Must(t, r.print(&b))
	lines := strings.Split(b.String(), "\n")
	for _, x := range r.rows() {
		found := false
		for _, line := range lines {
			found = found || strings.HasPrefix(line, "| "+x.What+" |") && strings.Count(line, "|") == 5
		}
		if !found {
			t.Errorf("%q is no line of the table", x.What)
		}
	}
	testkit.Has(t, b.String(), "Steady state", "Vault answers 503", "After its return", "Plugin's own time", "A whole publish with the plugin", "Akeyless gateway that asks", "Akeyless gateway that has", "Size of the binary")
}
