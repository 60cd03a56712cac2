package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// trailOf returns the lines of a node's chain.
func trailOf(node string, n int) []string {
	h := chain.Begin(nil)
	var lines []string
	for range n {
		var text []byte
		text, h = h.Add(nil, fmt.Appendf(nil, `{"apiVersion":%q,"time":"2026-03-01T09:30:00.125Z","event":"publish","node":%q}`+"\n", chain.Version, node))
		lines = append(lines, string(text))
	}
	return lines
}

func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	a := trailOf("n1", 4)
	file := func(name string, lines ...string) string {
		path := filepath.Join(dir, name)
		testkit.Must(t, os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600))
		return path
	}
	first, second := file("1", a[:2]...), file("2", a[2:]...)
	short, other := file("short", a[0], a[2], a[3]), file("other", trailOf("n2", 2)...)
	lost := file("lost", strings.Replace(trailOf("n1", 1)[0], `"event"`, `"lost":7,"event"`, 1))
	for _, tc := range []struct {
		name   string
		args   string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{"two files", "verify " + first + " " + second, "", 0, "lines 1 to 4, 2026-03-01T09:30:00Z to 2026-03-01T09:30:00Z, which follow no line", ""},
		{"the later one alone", "verify " + second, "", 0, "lines 3 to 4, 2026-03-01T09:30:00Z to 2026-03-01T09:30:00Z, which follow a line that is in none of the files", ""},
		{"in the wrong order", "verify " + second + " " + first, "", 1, first + ":1: line 1 of the chain comes after line 4", ""},
		{"a gap", "verify " + short, "", 1, short + ":2: 1 line is missing between line 1 of the chain (" + short + ":1) and line 3", ""},
		{"standard input", "verify -", strings.Join(a, ""), 0, "node n1, chain ", ""},
		{"as far as it must", "verify --reaches 4 " + first + " " + second, "", 0, "lines 1 to 4", ""},
		{"not as far", "verify --reaches 6 " + first, "", 1, "the last line is line 2 of its chain, and line 6 was written: 4 lines are missing at the end", ""},
		{"of two nodes", "verify --reaches 4 " + first + " " + other, "", 2, "node n2", "--reaches is about one node"},
		{"lost lines", "verify " + lost, "", 0, "the driver says that it lost 7 lines", ""},
		{"other programs' lines", "verify -", "level=INFO\n" + a[0] + ` {"event":"publish"}` + "\n", 0, "2 lines are of no audit trail, and were left out", ""},
		{"no trail", "verify -", "level=INFO\n", 2, "", "no line with a place in a chain"},
		{"no such file", "verify " + dir + "/no", "", 2, "", "opening the audit trail: open " + dir + "/no"},
		{"no file", "verify", "", 2, "", "no file is given"},
		{"no subcommand", "", "", 2, "", "the subcommand is missing"},
		{"another subcommand", "check x", "", 2, "", "the subcommand is missing"},
		{"an unknown flag", "verify --x y", "", 2, "", "-x"},
		{"help", "verify --help", "", 0, "--reaches", ""},
		{"help of all", "--help", "", 0, "mayfly-node audit verify FILE...", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := auditTool(strings.Fields(tc.args), strings.NewReader(tc.stdin), &stdout, &stderr)
			if code != tc.code || !strings.Contains(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) || tc.stderr == "" && stderr.Len() > 0 {
				t.Errorf("code %d\n%s\n%s", code, &stdout, &stderr)
			}
		})
	}
}
