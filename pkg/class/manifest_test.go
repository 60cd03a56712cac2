package class_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const full = `# a class
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: db
  namespace: shop
  labels: {app: web}
  annotations:
    note: "yes"
spec:
  provider: vault
  parameters:
    roleName: app
    day: 2026-01-02
    objects: |
      - objectName: a
        secretPath: secret/data/a
  secretObjects:
  - secretName: db
    type: Opaque
    labels: {a: b}
    annotations: {c: d}
    data:
    - objectName: a
      key: password
`

const small = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: %s
spec:
  provider: vault
`

// TestParseManifestAgrees compares with the reader that kubectl uses.
func TestParseManifestAgrees(t *testing.T) {
	var want v1.SecretProviderClass
	testkit.Must(t, yaml.UnmarshalStrict([]byte(full), &want))
	asJSON := testkit.Value(yaml.YAMLToJSON([]byte(full)))(t)
	for name, text := range map[string]string{
		"YAML":          full,
		"JSON":          string(asJSON),
		"indented JSON": strings.ReplaceAll(string(asJSON), "{", "{\n\t"),
		"CRLF":          strings.ReplaceAll(full, "\n", "\r\n"),
		"BOM":           "\ufeff" + full,
		"directive":     "%YAML 1.2\n---\n" + full,
		"end marker":    full + "...\n",
	} {
		got, warnings, err := class.ParseManifest([]byte(text))
		if err != nil || len(warnings) > 0 || len(got) != 1 {
			t.Errorf("%s: got %d classes, error %v, warnings %q", name, len(got), err, warnings)
			continue
		}
		if !reflect.DeepEqual(got[0], &want) {
			t.Errorf("%s: got  %+v\nwant %+v", name, got[0], &want)
		}
	}
}

func TestParseManifest(t *testing.T) {
	a, b := fmt.Sprintf(small, "a"), fmt.Sprintf(small, "b")
	indent := func(s string) string {
		return "- " + strings.TrimSpace(strings.ReplaceAll(s, "\n", "\n  ")) + "\n"
	}
	for name, tc := range map[string]struct {
		text    string
		names   string
		warning string
		err     string
	}{
		"nothing":           {"", "", "", ""},
		"comments only":     {"# none\n---\n# here\n--- # nor here\n", "", "", ""},
		"null document":     {"---\n~\n---\n" + a, "a", "", ""},
		"two documents":     {a + "---\n" + b, "a b", "", ""},
		"leading marker":    {"---\n" + a + "--- # next\n" + b, "a b", "", ""},
		"ended document":    {a + "...\n---\n" + b, "a b", "", ""},
		"braces":            {"{apiVersion: secrets-store.csi.x-k8s.io/v1, kind: SecretProviderClass, metadata: {name: a}}", "a", "", ""},
		"v1alpha1":          {strings.Replace(a, "io/v1", "io/v1alpha1", 1), "a", "", ""},
		"status":            {a + "status:\n  byPod: []\n", "a", "", ""},
		"JSON stream":       {`{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"a\ud83d\ude00"}}{"kind":"Other"}`, "a😀", "document 1, line 1: this Other is no", ""},
		"list":              {"apiVersion: v1\nkind: List\nitems:\n" + indent(a) + indent(b), "a b", "", ""},
		"typed list":        {"apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClassList\nmetadata: {}\nitems:\n" + indent(a), "a", "", ""},
		"other kind":        {"apiVersion: v1\nkind: Secret\ndata: {x: 1}\n---\n" + a, "a", "document 1, line 1: this Secret is no SecretProviderClass", ""},
		"other group":       {strings.Replace(a, "secrets-store.csi.x-k8s.io", "example.com", 1), "", "is ignored", ""},
		"unknown field":     {a + "  paramters: {}\n", "a", "document 1, line 7: spec.paramters: no such field", ""},
		"unknown nested":    {full + "      mode: 1\n", "db", "document 1, line 26: spec.secretObjects[0].data[0].mode: no such field", ""},
		"anchors":           {a + "  parameters: &p\n    roleName: r\n---\n" + b, "a b", "", ""},
		"merged":            {strings.Replace(a, "metadata:\n", "metadata:\n  <<: {name: x, namespace: z}\n", 1), "a", "", ""},
		"merged list":       {strings.Replace(a, "metadata:\n", "metadata:\n  <<: [{name: x}, {namespace: z}]\n", 1), "a", "", ""},
		"null parameters":   {a + "  parameters:\n  secretObjects:\n", "a", "", ""},
		"wrong version":     {strings.Replace(a, "io/v1", "io/v2", 1), "", "", "document 1, line 1: apiVersion: must be secrets-store.csi.x-k8s.io/v1"},
		"no version":        {"kind: SecretProviderClass\nmetadata: {name: a}\n", "", "", "document 1, line 1: apiVersion: must be"},
		"no kind":           {"metadata: {name: a}\n", "", "", "document 1, line 1: kind: is missing"},
		"no name":           {strings.Replace(a, "  name: a", "  namespace: a", 1), "", "", "document 1, line 1: metadata.name: is missing"},
		"broken, then fine": {a + "---\nkind: [\n---\n" + b, "a b", "", "document 2, near line "},
		"broken line":       {a + "---\nkind: x\n\tbad: y\n", "a", "", "document 2, near line 8: not valid YAML"},
		"broken JSON":       {a + "---\n{\"kind\": \"x\",\n\"b\": 1,]\n", "a", "", "document 2, near line 9: not valid JSON"},
		"number":            {a + "  parameters:\n    refreshInterval: 30\n", "", "", `document 1, line 8: spec.parameters.refreshInterval: must be a string: write "30"`},
		"boolean":           {a + "  parameters:\n    vaultSkipTLSVerify: true\n", "", "", `spec.parameters.vaultSkipTLSVerify: must be a string: write "true"`},
		"old boolean":       {a + "  parameters:\n    x: yes\n", "", "", `write "yes"`},
		"null value":        {a + "  parameters:\n    x:\n", "", "", "spec.parameters.x: must be a string, not null"},
		"objects as a list": {a + "  parameters:\n    objects:\n    - objectName: a\n", "", "", "document 1, line 9: spec.parameters.objects: must be a string"},
		"spec a list":       {strings.Replace(a, "spec:\n  provider: vault", "spec: []", 1), "", "", "document 1, line 5: spec: must be a mapping"},
		"data a mapping":    {strings.Replace(full, "data:\n    - objectName", "data:\n      objectName", 1), "", "", "spec.secretObjects[0].data: must be a list"},
		"field twice":       {a + "  provider: aws\n", "", "", "document 1, line 7: spec.provider: is given twice"},
		"scalar":            {"hello\n", "", "", "document 1, line 1: must be a mapping"},
		"two mistakes":      {a + "  parameters: {a: 1, b: 2}\n", "", "", `spec.parameters.a: must be a string: write "1"; document 1, line 7: spec.parameters.b`},
		"list in itself":    {"kind: List\nitems: &i\n- kind: List\n  items: *i\n", "", "", "lists are nested too deeply"},
		"merge in itself":   {"kind: x\n<<: &m\n  <<: *m\n", "", "", "nested too deeply"},
		"deep JSON":         {strings.Repeat(`{"a":`, 200), "", "", "document 1, near line 1: not valid JSON"},
		"deep YAML":         {strings.Repeat(`[`, 20000), "", "", "document 1, "},
		"too long":          {strings.Repeat("#", class.MaxManifest+1), "", "", "of which a manifest may have"},
	} {
		t.Run(name, func(t *testing.T) {
			classes, warnings, err := class.ParseManifest([]byte(tc.text))
			var names []string
			for _, c := range classes {
				names = append(names, c.Name)
			}
			if got := strings.Join(names, " "); got != tc.names {
				t.Errorf("got classes %q, want %q", got, tc.names)
			}
			if got := strings.Join(warnings, "; "); got != tc.warning && (tc.warning == "" || !strings.Contains(got, tc.warning)) {
				t.Errorf("got warnings %q, want %q", got, tc.warning)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got error %v, want %q", err, tc.err)
			}
		})
	}
}

// TestParseManifestAliasBomb has nine aliases of nine aliases and so on, in lists, and one long
// value in many places.
func TestParseManifestAliasBomb(t *testing.T) {
	var lists, values strings.Builder
	lists.WriteString("x: &l0 [" + strings.Repeat("{kind: x},", 4000) + "]\n")
	lists.WriteString("kind: List\nitems:\n" + strings.Repeat("- {kind: List, items: [{kind: List, items: *l0}]}\n", 4000))
	values.WriteString("x: &v " + strings.Repeat("v", 1<<20) + "\n" + fmt.Sprintf(small, "a") + "  parameters:\n")
	for i := range 100 {
		fmt.Fprintf(&values, "    p%d: *v\n", i)
	}
	for name, text := range map[string]string{"lists": lists.String(), "values": values.String()} {
		classes, warnings, err := class.ParseManifest([]byte(text))
		if err == nil || !strings.Contains(err.Error(), "aliases make more than") || len(classes) != 0 {
			t.Errorf("%s: got %d classes and error %v", name, len(classes), err)
		}
		if n := strings.Count(fmt.Sprint(err), "aliases"); n > 1 {
			t.Errorf("%s: said %d times", name, n)
		}
		if len(warnings) > 100 {
			t.Errorf("%s: %d warnings", name, len(warnings))
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(fmt.Sprintf(small, "a") + "---\n" + full + "--- {}\n...\nx: [\n"))
	f.Add([]byte(`{"kind":"List","items":[{"kind":"SecretProviderClass","apiVersion":"secrets-store.csi.x-k8s.io/v1","metadata":{"name":"a"}}]}`))
	f.Add([]byte("a: &a [*a]\nkind: List\nitems: *a\n<<: *a\n? {x: y}\n: z\n"))
	f.Add([]byte("kind: !!binary aGk=\n--- !x &y\n*z\n%TAG\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		classes, _, err := class.ParseManifest(data)
		for _, c := range classes {
			if c.Name == "" || c.Kind != "SecretProviderClass" {
				t.Errorf("not a class: %+v", c)
			}
			if _, _, err := class.Parse(c); err == nil && c.Spec.Provider == "" {
				t.Error("a class without a provider was accepted")
			}
		}
		if err != nil && !strings.Contains(err.Error(), "document ") && len(data) <= class.MaxManifest {
			t.Errorf("the error does not say where: %v", err)
		}
	})
}
