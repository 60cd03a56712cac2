package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const referenceHead = `# Values of the chart

<!-- Made of charts/mayfly/values.yaml by "go test ./test/chart -update". Do not edit. -->

Give values with ` + "`--set name=value` or `--values file.yaml`" + ` to ` + "`helm install` and `helm upgrade`" + `. A
value that is not listed here, or that has another type, fails the command with
its name.
`

// chartHead begins the chart's own README, which is part of the packaged chart: its links must work
// without the repository.
const chartHead = `# Mayfly

<!-- Made of values.yaml by "go test ./test/chart -update". Do not edit. -->

A CSI node driver that gives pods their secrets as files in a private tmpfs, and
keeps them fresh for as long as the pod lives. It takes the manifests of the Secrets
Store CSI driver, and has Vault, OpenBao and Akeyless built in.

    helm install mayfly CHART --namespace kube-system \
      --set image.repository=REGISTRY/mayfly-node,image.tag=VERSION \
      --set vault.address=https://vault.example.com:8200
    kubectl --namespace kube-system rollout status daemonset/mayfly
    helm test mayfly --namespace kube-system

The [documentation](https://github.com/mayfly-csi/mayfly/tree/main/docs) has the set-up
of a store, and what to do before an upgrade or an uninstall. A value that is not
listed here, or that has another type, fails the command with its name.
`

// reference is the values as tables.
func reference(all []section, definitions *yaml.Node, names map[string]string) string {
	var text strings.Builder
	const columns = "\n| Value | Type | Default | Meaning |\n|---|---|---|---|\n"
	text.WriteString("\n## The driver as a whole\n" + columns)
	for _, s := range all {
		if len(s.values) == 1 && s.values[0].path == s.name {
			text.WriteString(row(s.values[0], definitions))
		}
	}
	for _, s := range all {
		if len(s.values) == 1 && s.values[0].path == s.name {
			continue
		}
		fmt.Fprintf(&text, "\n## %s\n\n%s\n%s", s.name, s.description, columns)
		for _, v := range s.values {
			text.WriteString(row(v, definitions))
		}
	}
	text.WriteString("\n## Old names\n\nThese work too, and count before the new ones. Some are the Secrets Store CSI driver's.\n\n| Old name | Value |\n|---|---|\n")
	for _, old := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&text, "| `%s` | `%s` |\n", old, names[old])
	}
	return text.String()
}

func row(v value, definitions *yaml.Node) string {
	if v.node == nil {
		return fmt.Sprintf("| `%s` | | | %s |\n", v.path, escape(v.description))
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", v.path, kind(v.schema, definitions), code(compact(v.node)), escape(v.description))
}

// kind describes a schema in a few words.
func kind(schema, definitions *yaml.Node) string {
	if ref := get(schema, "$ref"); ref != nil {
		name := strings.TrimPrefix(ref.Value, "#/definitions/")
		words := map[string]string{
			"optionalName": "name", "strings": "map of strings", "objects": "list of objects", "named": "list of objects",
			"duration": "duration", "interval": "duration", "optionalDuration": "duration", "path": "path",
		}
		if word, ok := words[name]; ok {
			return word
		}
		return kind(get(definitions, name), definitions)
	}
	if choice := get(schema, "enum"); choice != nil {
		var words []string
		for _, item := range choice.Content {
			words = append(words, "`"+item.Value+"`")
		}
		return strings.Join(words, ", ")
	}
	if items := get(schema, "items"); items != nil {
		return "list of " + kind(items, definitions) + "s"
	}
	return get(schema, "type").Value
}

// compact is a default on one line.
func compact(node *yaml.Node) string {
	var value any
	if err := node.Decode(&value); err != nil {
		return err.Error()
	}
	if text, ok := value.(string); ok && text != "" {
		return text
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}

func code(text string) string { return "`" + escape(text) + "`" }

// escape escapes a text for a table cell.
func escape(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

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
	pages := testkit.Value(filepath.Glob("../../docs/*.md"))(t)
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
		text := testkit.Value(os.ReadFile(page))(t)
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

func driver(t *testing.T) string {
	t.Helper()
	return testkit.Value(toolcache.Program(t.Context(), os.Stderr, t.TempDir(), "./cmd/mayfly-node"))(t)
}

// TestFlags: the driver has every flag that the chart sets, and accepts the value. With --version
// it exits after it has read its command line.
func TestFlags(t *testing.T) {
	program := driver(t)
	for name := range valueSets {
		args := decode(t, renderSet(t, name)).daemonSets[0].Spec.Template.Spec.Containers[0].Args
		cmd := exec.CommandContext(t.Context(), program, append(args, "--version")...)
		cmd.Env = []string{}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// leftOut are the flags for which the chart has no value, with the reason.
// linux.extraArgs can still give them.
var leftOut = map[string]string{
	"state-dir":              "its default is within the driver's folder, which the chart mounts",
	"class-dir":              "for machines without an API server",
	"kubeconfig":             "for drivers outside of a cluster",
	"akeyless-tls-ca-cert":   "mount the file with linux.volumes and name it with linux.extraArgs",
	"vault-tls-ca-directory": "vault.tls.caConfigMap gives a file",
	"version":                "prints and ends",
}

// setExtraArgs restricts linux.extraArgs to the driver's flags.
func setExtraArgs(t *testing.T, schema *yaml.Node) {
	t.Helper()
	pattern := schema
	for _, key := range []string{"properties", "linux", "properties", "extraArgs", "items", "pattern"} {
		if pattern = get(pattern, key); pattern == nil {
			t.Fatalf("linux.extraArgs: the schema has no %s", key)
		}
	}
	pattern.SetString("^--?(" + strings.Join(flagNames(t), "|") + ")(=.*)?$")
}

func flagNames(t *testing.T) []string {
	t.Helper()
	help := testkit.Value(exec.CommandContext(t.Context(), driver(t), "--help").Output())(t)
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^  --([a-z0-9-]+)`).FindAllSubmatch(help, -1) {
		names = append(names, string(match[1]))
	}
	if len(names) < 10 {
		t.Fatalf("found %d flags in --help:\n%s", len(names), help)
	}
	return names
}

// TestEveryFlagHasAValue: a flag is rendered by some value set, or left out for
// a reason.
func TestEveryFlagHasAValue(t *testing.T) {
	rendered := map[string]bool{}
	for _, arg := range decode(t, renderSet(t, "everything")).daemonSets[0].Spec.Template.Spec.Containers[0].Args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		rendered[name] = true
	}
	for _, name := range flagNames(t) {
		if reason := leftOut[name]; rendered[name] == (reason != "") {
			t.Errorf("--%s: rendered %v, left out because %q", name, rendered[name], reason)
		}
	}
}

const parametersFile = "../../charts/mayfly/files/parameters.json"

// TestParametersAreThoseOfTheDriver: the chart's policy warns of parameters that the driver does
// not know, and of no others.
func TestParametersAreThoseOfTheDriver(t *testing.T) {
	known := map[string][]string{
		vault.NameVault: vault.Parameters(vault.NameVault), vault.NameOpenBao: vault.Parameters(vault.NameOpenBao), akeyless.Name: akeyless.Parameters(),
	}
	for provider, names := range known {
		known[provider] = append(class.OwnKeys(), names...)
		slices.Sort(known[provider])
	}
	want := testkit.Value(json.MarshalIndent(known, "", "  "))(t)
	want = append(want, '\n')
	if *update {
		testkit.Must(t, os.WriteFile(parametersFile, want, 0o644))
	}
	if got, err := os.ReadFile(parametersFile); err != nil || string(got) != string(want) {
		t.Errorf("%s is not what the driver knows: go test ./test/chart -update (%v)", parametersFile, err)
	}
}

// TestClassWarnings: the policy warns and never refuses. The e2e checks the texts.
func TestClassWarnings(t *testing.T) {
	all := decode(t, render(t, newest))
	i := slices.IndexFunc(all.admission, func(p admissionv1.ValidatingAdmissionPolicy) bool { return strings.HasSuffix(p.Name, "class-warnings") })
	j := slices.IndexFunc(all.admitting, func(p admissionv1.ValidatingAdmissionPolicyBinding) bool {
		return strings.HasSuffix(p.Name, "class-warnings")
	})
	if i < 0 || j < 0 || *all.admission[i].Spec.FailurePolicy != admissionv1.Ignore ||
		!slices.Equal(all.admitting[j].Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Warn}) || all.admitting[j].Spec.PolicyName != all.admission[i].Name {
		t.Fatalf("policies %+v, bindings %+v", all.admission, all.admitting)
	}
	testkit.Has(t, all.admission[i].Spec.Variables[1].Expression, "'roleName'", "'refreshInterval'", "'akeylessAccessID'", "'baoNamespace'")
}

// TestSettingsAreNamed: the names of flags and values in errors are those of the driver and the
// chart.
func TestSettingsAreNamed(t *testing.T) {
	help := testkit.Value(exec.CommandContext(t.Context(), driver(t), "--help").Output())(t)
	text := func(path string) string {
		data := testkit.Value(os.ReadFile(path))(t)
		return string(data)
	}
	template, page := text("../../charts/mayfly/templates/_driver.tpl"), text("../../docs/values.md")
	for flag, value := range setting.All() {
		testkit.Has(t, string(help), "  "+flag)
		testkit.Has(t, page, "| `"+value)
		testkit.Has(t, template, flag)
	}
}
