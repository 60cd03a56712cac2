package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

var (
	setFlag  = regexp.MustCompile(`--set(?:-json|-string)? ([^\s` + "`" + `]+)`)
	quoted   = regexp.MustCompile("`([a-zA-Z]+(?:\\.[a-zA-Z]+)+)(?:: [^`]*)?`")
	ofTheOld = regexp.MustCompile(`^\| (.*) \| ([^|]*) \|$`) // a row of migrate.md's table of values
)

// aboutTheChart are the pages in which a quoted word such as rbac.install is a value. Elsewhere it
// may be a key of the CSI call or a field of an object.
var aboutTheChart = map[string]bool{"install.md": true, "upgrade.md": true, "migrate.md": true, "security.md": true}

// TestDocsNameValuesThatExist: whatever a page calls a value of the chart is one.
func TestDocsNameValuesThatExist(t *testing.T) {
	known, groups := map[string]bool{}, map[string]bool{}
	for _, section := range sections(t) {
		groups[section.name] = true
		for _, v := range section.values {
			known[v.path] = true
		}
	}
	pages, err := filepath.Glob("../../docs/*.md")
	testkit.Must(t, err)
	checked := 0
	check := func(page, name string) {
		checked++
		if !known[name] {
			t.Errorf("%s: the chart has no value %s", filepath.Base(page), name)
		}
	}
	for _, page := range append(pages, "../../README.md") {
		if filepath.Base(page) == "values.md" {
			continue // made of the values themselves
		}
		text, err := os.ReadFile(page)
		testkit.Must(t, err)
		foreign := false // a command that installs another chart
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "helm install ") || strings.Contains(line, "helm upgrade ") {
				foreign = !strings.Contains(line, "mayfly")
			} else if !strings.Contains(line, "--set") {
				foreign = foreign && strings.HasSuffix(strings.TrimSpace(line), `\`)
			}
			if foreign {
				continue
			}
			for _, match := range setFlag.FindAllStringSubmatch(line, -1) {
				for pair := range strings.SplitSeq(match[1], ",") {
					name, _, _ := strings.Cut(pair, "=")
					check(page, name)
				}
			}
			if !aboutTheChart[filepath.Base(page)] {
				continue
			}
			if row := ofTheOld.FindStringSubmatch(strings.TrimSpace(line)); row != nil && filepath.Base(page) == "migrate.md" && row[2] != "the same" {
				line = row[2]
			}
			for _, match := range quoted.FindAllStringSubmatch(line, -1) {
				if group, _, _ := strings.Cut(match[1], "."); groups[group] {
					check(page, match[1])
				}
			}
		}
	}
	if checked < 40 {
		t.Errorf("found %d values in the pages", checked)
	}
}
