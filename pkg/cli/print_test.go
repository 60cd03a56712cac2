package cli_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// checkSARIF checks the properties that SARIF 2.1.0 and code scanning require, and returns the
// number of results.
func checkSARIF(t *testing.T, data []byte) int {
	t.Helper()
	var log struct {
		Schema  string `json:"$schema"`
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Name  string
					Rules []struct {
						ID               string
						ShortDescription struct{ Text string }
						HelpURI          string
					}
				}
			}
			Results []struct {
				RuleID    string
				RuleIndex *int
				Level     string
				Message   struct{ Text string }
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine int }
					}
				}
				PartialFingerprints map[string]string
			}
		}
	}
	testkit.Must(t, json.Unmarshal(data, &log))
	if log.Version != "2.1.0" || !strings.HasSuffix(log.Schema, "sarif-2.1.0.json") || len(log.Runs) != 1 || log.Runs[0].Results == nil {
		t.Fatalf("no SARIF: %.200s", data)
	}
	run := log.Runs[0]
	rules := run.Tool.Driver.Rules
	if run.Tool.Driver.Name == "" {
		t.Errorf("tool: %+v", run.Tool)
	}
	for _, r := range rules {
		if r.ID == "" || r.ShortDescription.Text == "" || r.HelpURI == "" {
			t.Errorf("rule: %+v", r)
		}
	}
	for _, r := range run.Results {
		if r.RuleIndex == nil || *r.RuleIndex < 0 || *r.RuleIndex >= len(rules) || rules[*r.RuleIndex].ID != r.RuleID {
			t.Fatalf("the rule of %+v", r)
		}
		if r.Message.Text == "" || !slices.Contains([]string{"error", "warning", "note"}, r.Level) || len(r.PartialFingerprints) == 0 {
			t.Errorf("result: %+v", r)
		}
		for _, l := range r.Locations {
			uri, err := url.Parse(l.PhysicalLocation.ArtifactLocation.URI)
			if err != nil || uri.IsAbs() || path.IsAbs(uri.Path) || l.PhysicalLocation.Region.StartLine < 1 {
				t.Errorf("location: %+v, %v", l, err)
			}
		}
	}
	return len(run.Results)
}

func TestSARIF(t *testing.T) {
	archive := testkit.Value(txtar.ParseFile("testdata/format_sarif.txtar"))(t)
	want := archive.Files[len(archive.Files)-1].Data
	testkit.Equal(t, "results", checkSARIF(t, want), 3)
	testkit.Has(t, string(want), `"uri": "dir/a%20b.yaml"`)
}

// TestFindingsPage: every code has its section, with cause, example and remedy, and every section
// has a code.
func TestFindingsPage(t *testing.T) {
	data := testkit.Value(os.ReadFile("../../docs/findings.md"))(t)
	sections := map[string]string{}
	for _, section := range strings.Split(string(data), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		sections[title] = text
	}
	for _, rule := range finding.Rules() {
		text, ok := sections[rule.Code]
		if !ok {
			t.Errorf("docs/findings.md has no section %s", rule.Code)
		}
		delete(sections, rule.Code)
		if !strings.Contains(text, "**"+strings.ToUpper(rule.Title[:1])+rule.Title[1:]+"** ("+string(rule.Level)+")") {
			t.Errorf("%s does not begin with its title and level", rule.Code)
		}
		for _, part := range []string{"Cause: ", "Example: ", "Remedy: "} {
			if !regexp.MustCompile(`(?m)^` + part + `\S`).MatchString(text) {
				t.Errorf("%s has no %q", rule.Code, part)
			}
		}
	}
	for title := range sections {
		t.Errorf("docs/findings.md has %q, which is no code", title)
	}
}

// TestCommandsPage: docs/cli.md has the commands' own help.
func TestCommandsPage(t *testing.T) {
	const page = "../../docs/cli.md"
	want := cli.Page()
	if *update {
		testkit.Must(t, os.WriteFile(page, []byte(want), 0o644))
	}
	testkit.Equal(t, "docs/cli.md differs from the commands' help: run go test ./pkg/cli -update", string(testkit.Value(os.ReadFile(page))(t)), want)
}
