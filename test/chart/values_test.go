package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

type value struct {
	path        string     // vault.tls.serverName
	node        *yaml.Node // nil for a group, which only has values below it
	description string
	schema      *yaml.Node
}

// section is a top-level entry with its values: itself, or those below it.
type section struct {
	name, description string
	values            []value
}

func parse(t *testing.T, name string) *yaml.Node {
	t.Helper()
	data := testkit.Value(os.ReadFile(filepath.Join(chartDir, name)))(t)
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		t.Fatalf("parsing %s: %v", name, err)
	}
	return document.Content[0]
}

// get is the value of a key of a mapping, nil if there is none.
func get(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// comment is a comment as one line of prose.
func comment(node *yaml.Node) string {
	var words []string
	for line := range strings.Lines(node.HeadComment) {
		words = append(words, strings.Fields(strings.TrimPrefix(line, "#"))...)
	}
	return strings.Join(words, " ")
}

// describe calls back for each documented entry of values.yaml, groups included,
// with its entry in the schema (nil where that is missing).
func describe(values, schema *yaml.Node, path string, visit func(path, description string, node, schema *yaml.Node)) {
	for i := 0; i < len(values.Content); i += 2 {
		key, node := values.Content[i], values.Content[i+1]
		here := strings.TrimPrefix(path+"."+key.Value, ".")
		below := get(get(schema, "properties"), key.Value)
		visit(here, comment(key), node, below)
		if isGroup(node, below) {
			describe(node, below, here, visit)
		}
	}
}

// isGroup tells a mapping of the chart's own values from one that is a value.
func isGroup(node, schema *yaml.Node) bool {
	if node.Kind != yaml.MappingNode || get(schema, "properties") == nil {
		return false
	}
	key := node.Content[0]
	return comment(key) != ""
}

func sections(t *testing.T) []section {
	t.Helper()
	var all []section
	describe(parse(t, "values.yaml"), parse(t, "values.schema.json"), "", func(path, description string, node, schema *yaml.Node) {
		if !strings.Contains(path, ".") {
			all = append(all, section{name: path, description: description})
		}
		last := &all[len(all)-1]
		switch group := isGroup(node, schema); {
		case !group:
			last.values = append(last.values, value{path, node, description, schema})
		case strings.Contains(path, "."):
			last.values = append(last.values, value{path: path, description: description})
		}
	})
	return all
}

// TestSchemaDescribesValues: every value is in the schema, with the text of values.yaml. -update
// writes them there.
func TestSchemaDescribesValues(t *testing.T) {
	schema := parse(t, "values.schema.json")
	describe(parse(t, "values.yaml"), schema, "", func(path, description string, _, schema *yaml.Node) {
		if schema == nil {
			t.Fatalf("%s: not in values.schema.json", path)
		}
		if description == "" {
			t.Errorf("%s: no comment above it in values.yaml", path)
		}
		setDescription(schema, description)
	})
	setExtraArgs(t, schema)
	var text bytes.Buffer
	testkit.Must(t, writeJSON(&text, schema, ""))
	golden(t, filepath.Join(chartDir, "values.schema.json"), text.String()+"\n")
}

// TestSchemaHasNothingElse: the schema knows no value that values.yaml lacks.
func TestSchemaHasNothingElse(t *testing.T) {
	known := map[string]bool{"global": true}
	describe(parse(t, "values.yaml"), parse(t, "values.schema.json"), "", func(path, _ string, node, schema *yaml.Node) {
		known[path] = true
		if isGroup(node, schema) {
			return
		}
		for key := range properties(schema) { // of a value that is free below
			known[path+"."+key] = true
		}
	})
	var check func(path string, schema *yaml.Node)
	check = func(path string, schema *yaml.Node) {
		for key, below := range properties(schema) {
			here := strings.TrimPrefix(path+"."+key, ".")
			if get(below, "deprecated") != nil {
				continue // an old name, which values.yaml leaves out
			}
			if !known[here] {
				t.Errorf("%s: in values.schema.json, not in values.yaml", here)
			}
			check(here, below)
		}
	}
	check("", parse(t, "values.schema.json"))
}

func properties(schema *yaml.Node) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	if list := get(schema, "properties"); list != nil {
		for i := 0; i < len(list.Content); i += 2 {
			all[list.Content[i].Value] = list.Content[i+1]
		}
	}
	return all
}

func TestReference(t *testing.T) {
	all, definitions := sections(t), get(parse(t, "values.schema.json"), "definitions")
	golden(t, "../../docs/values.md", referenceHead+reference(all, definitions, oldNames(t)))
	golden(t, filepath.Join(chartDir, "README.md"), chartHead+reference(all, definitions, oldNames(t)))
}

// TestBadValues: a value of the wrong kind fails the install and is named.
func TestBadValues(t *testing.T) {
	tests := []struct{ set, want string }{
		{"linux=3", "'/linux': got number, want object"},
		{"linux.nodeselector.a=b", "'/linux': additional properties 'nodeselector' not allowed"},
		{"windows.enabled=true", "additional properties 'windows' not allowed"},
		{"linux.image.tag=v1.6.0", "'/linux': additional properties 'image' not allowed"},
		{"image.tag=1", "'/image/tag': got number, want string"},
		{"image.digest=latest", "'/image/digest'"},
		{"image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of"},
		{"driverName=Mayfly_1", "'/driverName'"},
		{"driverName=null", "missing property 'driverName'"},
		{"vault.tls.skipVerify=yes", "'/vault/tls/skipVerify': got string, want boolean"},
		{"vault.address=vault.example.com", "'/vault/address'"},
		{"vault.allowedAddresses=https://a", "'/vault/allowedAddresses': got string, want array"},
		{"vault.allowedAddresses[0]=https://a\\,b", "'/vault/allowedAddresses/0'"},
		{"vault.maxRetries=-1", "'/vault/maxRetries'"},
		{"tokenRequests[0].expirationSeconds=60", "'/tokenRequests/0'"},
		{"tokenRequests=vault", "'/tokenRequests': got string, want array"},
		{"enableSecretRotation=false", "'/enableSecretRotation': value must be true"},
		{"refresh.interval=120", "'/refresh/interval': got number, want string"},
		{"refresh.interval=2 minutes", "'/refresh/interval'"},
		{"rotationPollInterval=500ms", "'/rotationPollInterval'"},
		{"refresh.interval=0m", "'/refresh/interval'"},
		{"refresh.minInterval=0.9s", "'/refresh/minInterval'"},
		{"linux.driver.resources.limits.memory=10Mi", "linux.driver.resources.limits.memory is 10Mi"},
		{"linux.driver.resources.limits.memory=1000", "linux.driver.resources.limits.memory is 1000"},
		{"memory.budget=200Mi", "memory.budget is 200Mi, and linux.driver.resources.limits.memory is 192Mi"},
		{"linux.extraArgs[0]=--nope", "'/linux/extraArgs/0'"},
		{"health.address=node-1", "'/health/address'"},
		{"health.address=127.0.0.1", "health.address: only with linux.hostNetwork"},
		{"vault.fallbackAddress=https://second.test", "vault.fallbackAddress: is the second address of the store at vault.address"},
		{"volume.sizeLimit=16MB", "'/volume/sizeLimit'"},
		{"refresh.workers=0", "'/refresh/workers'"},
		{"kubeAPI.qps=0", "'/kubeAPI/qps'"},
		{"crds.install=maybe", "'/crds/install': value must be one of 'auto', true, false"},
		{"rbac.admissionPolicy=1", "'/rbac/admissionPolicy'"},
		{"csiDriver.serviceAccountTokenInSecrets=1", "'/csiDriver/serviceAccountTokenInSecrets'"},
		{"rolloutRestart.enabled=true", "rolloutRestart.enabled: name the workloads"},
		{"rolloutRestart.workloads.shop[0]=Job/x", "'/rolloutRestart/workloads/shop/0'"},
		{"syncSecret.enabled=true", "syncSecret.enabled: name the Secrets that the driver may write"},
		{"syncSecret.secrets.shop=db", "'/syncSecret/secrets/shop'"},
		{"syncSecret=true", "'/syncSecret': got boolean, want object"},
		{"startupTaint.key=not a key", "'/startupTaint/key'"},
		{"log.level=3", "'/log/level'"},
		{"audit.path=audit.log", "'/audit/path'"},
		{"audit.log=/audit.log", "'/audit/log'"},
		{"audit.level=none", "'/audit/level': value must be one of"},
		{"health.port=99999", "'/health/port'"},
		{"livenessProbe.port=99999", "'/livenessProbe/port'"},
		{"status.address=", "'/status/address'"},
		{"status.address=8096", "'/status/address': got number, want string"},
		{"metrics.address=8095", "'/metrics/address': got number, want string"},
		{"linux.kubeletRootDir=var/lib/kubelet", "'/linux/kubeletRootDir'"},
		{"linux.terminationGracePeriodSeconds=5", "'/linux/terminationGracePeriodSeconds'"},
		{"linux.updateStrategy.type=Recreate", "'/linux/updateStrategy/type'"},
		{"linux.extraArgs[0]=verbose", "'/linux/extraArgs/0'"},
		{"linux.env[0].value=x", "'/linux/env/0': missing property 'name'"},
		{"linux.podLabels.a=1", "'/linux/podLabels/a': got number, want string"},
		{"linux.driver.resources.memory=1Gi", "'/linux/driver/resources': additional properties 'memory' not allowed"},
		{"metrics.podMonitor.enabled=true,metrics.address=", "metrics.address is empty"},
	}
	for _, tt := range tests {
		t.Run(tt.set, func(t *testing.T) {
			t.Parallel()
			_, failure := tryRender(t, newest, "--set", tt.set)
			testkit.Has(t, failure, tt.want)
		})
	}
}

// TestSubchart: a parent chart adds the value "global".
func TestSubchart(t *testing.T) {
	render(t, newest, "--set", "global.registry=example.com")
}

func TestTooOldKubernetes(t *testing.T) {
	_, failure := tryRender(t, "1.26.15")
	testkit.Has(t, failure, "1.26.15")
}

func TestLint(t *testing.T) {
	for name := range valueSets {
		if out, err := runHelm(t, "lint", "--strict", chartDir, "--values", "testdata/"+name+".values.yaml"); err != nil {
			t.Errorf("linting with %s: %v\n%s", name, err, out)
		}
	}
}

// setDescription puts a description first in a schema.
func setDescription(schema *yaml.Node, text string) {
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if old := get(schema, "description"); old != nil {
		*old = *value
		return
	}
	key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "description"}
	schema.Content = append([]*yaml.Node{key, value}, schema.Content...)
}

// writeJSON prints a YAML tree as JSON. It keeps the order of the keys, which encoding/json does
// not.
func writeJSON(w *bytes.Buffer, node *yaml.Node, indent string) error {
	step, open, end := 1, "[", "]"
	switch node.Kind {
	case yaml.ScalarNode:
		return writeScalar(w, node)
	case yaml.MappingNode:
		step, open, end = 2, "{", "}"
	case yaml.SequenceNode:
	default:
		return fmt.Errorf("line %d: JSON has nothing like it", node.Line)
	}
	w.WriteString(open)
	for i := 0; i < len(node.Content); i += step {
		if i > 0 {
			w.WriteByte(',')
		}
		w.WriteString("\n  " + indent)
		if step == 2 {
			if err := writeScalar(w, node.Content[i]); err != nil {
				return err
			}
			w.WriteString(": ")
		}
		if err := writeJSON(w, node.Content[i+step-1], indent+"  "); err != nil {
			return err
		}
	}
	if len(node.Content) > 0 {
		w.WriteString("\n" + indent)
	}
	w.WriteString(end)
	return nil
}

func writeScalar(w *bytes.Buffer, node *yaml.Node) error {
	var value any
	if err := node.Decode(&value); err != nil {
		return err
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	w.Truncate(w.Len() - 1) // Encode ends the line
	return nil
}

// TestOldNames: a value under its earlier name has the same effect as under its own, and the schema
// says so.
func TestOldNames(t *testing.T) {
	names := oldNames(t)
	before := renderSet(t, "everything")
	for old, name := range names {
		sample := samples[name]
		want := renderSet(t, "everything", "--set-json", name+"="+sample)
		if got := renderSet(t, "everything", "--set-json", old+"="+sample); got != want || got == before {
			t.Errorf("%s=%s does not do what %s does", old, sample, name)
		}
	}
	for path := range deprecated(t) {
		if names[path] == "" {
			t.Errorf("%s is deprecated in the schema, and not in files/old-names.json", path)
		}
		delete(names, path)
	}
	for old := range names {
		t.Errorf("%s is in files/old-names.json, and not deprecated in the schema", old)
	}
}

func oldNames(t *testing.T) map[string]string {
	t.Helper()
	data := testkit.Value(os.ReadFile(filepath.Join(chartDir, "files/old-names.json")))(t)
	var names map[string]string
	testkit.Must(t, json.Unmarshal(data, &names))
	return names
}

// deprecated are the values that the schema calls so, without groups.
func deprecated(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	var walk func(path string, schema *schemaNode)
	walk = func(path string, schema *schemaNode) {
		if schema.Deprecated && len(schema.Properties) == 0 {
			found[path] = true
		}
		for key, below := range schema.Properties {
			walk(joinPath(path, key), below)
		}
	}
	data := testkit.Value(os.ReadFile(filepath.Join(chartDir, "values.schema.json")))(t)
	root := &schemaNode{}
	testkit.Must(t, json.Unmarshal(data, root))
	walk("", root)
	return found
}

type schemaNode struct {
	Deprecated bool                   `json:"deprecated"`
	Properties map[string]*schemaNode `json:"properties"`
}

func joinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
