package class_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func object(params map[string]string) *v1.SecretProviderClass {
	return &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", UID: "u1", ResourceVersion: "7"},
		Spec:       v1.SecretProviderClassSpec{Provider: "vault", Parameters: params},
	}
}

func TestParse(t *testing.T) {
	spc := object(map[string]string{
		"roleName":         "app",
		"objects":          "- objectName: a",
		"refreshInterval":  "90s",
		"volumeSizeLimit":  " 16Mi ",
		"volumeInodeLimit": "2k",
		"credentialScope":  "serviceAccount",
		"onUnavailable":    "lastGood",
		"onDenied":         "empty",
	})
	spc.Spec.SecretObjects = []v1.SecretObject{{
		SecretName: "db", Type: "Opaque", Labels: map[string]string{"a": "b"},
		Data: []v1.SecretObjectData{{ObjectName: "a", Key: "password"}},
	}}
	c, warnings, err := class.Parse(spc)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got error %v, warnings %q", err, warnings)
	}
	if c.String() != "shop/db" || c.UID != "u1" || c.ResourceVersion != "7" || c.Provider != "vault" {
		t.Errorf("wrong identity: %+v", c)
	}
	if len(c.Parameters) != 2 || c.Parameters["roleName"] != "app" || c.Parameters["objects"] != "- objectName: a" {
		t.Errorf("the provider's parameters are %q", c.Parameters)
	}
	if c.RefreshInterval != 90*time.Second || c.SizeLimit != 16<<20 || c.InodeLimit != 2000 {
		t.Errorf("wrong limits: %+v", c)
	}
	if c.CredentialScope != class.ScopeServiceAccount || c.OnUnavailable != class.UnavailableLastGood || c.OnDenied != class.DeniedEmpty {
		t.Errorf("wrong choices: %+v", c)
	}
	if len(c.SecretObjects) != 1 || c.SecretObjects[0].Data[0].Key != "password" {
		t.Fatalf("wrong secret objects: %+v", c.SecretObjects)
	}
	spc.Spec.SecretObjects[0].Labels["a"] = "edited"
	testkit.Equal(t, "the class changes with the object that it was made of", c.SecretObjects[0].Labels["a"], "b")
}

func TestParseDefaults(t *testing.T) {
	c, warnings, err := class.Parse(object(map[string]string{"refreshInterval": "", "onDenied": " "}))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("got error %v, warnings %q", err, warnings)
	}
	if c.RefreshInterval != 0 || c.SizeLimit != 0 || c.InodeLimit != 0 || c.CredentialScope != "" ||
		c.OnUnavailable != class.UnavailableFail || c.OnDenied != class.DeniedKeep {
		t.Errorf("wrong defaults: %+v", c)
	}
	testkit.Equal(t, "Mayfly's own keys are left to the provider", len(c.Parameters), 0)
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		key, value, want string
	}{
		"interval without a unit": {"refreshInterval", "5", `spec.parameters.refreshInterval: Invalid value: "5": must be a duration`},
		"interval of zero":        {"refreshInterval", "0", `spec.parameters.refreshInterval: Invalid value: "0": must be at least 1s`},
		"interval never":          {"refreshInterval", "never", `spec.parameters.refreshInterval: Invalid value: "never"`},
		"interval below zero":     {"refreshInterval", "-1m", `must be at least 1s`},
		"interval too short":      {"refreshInterval", "999ms", `must be at least 1s`},
		"interval out of range":   {"refreshInterval", "9999999h", `must be a duration`},
		"size of no number":       {"volumeSizeLimit", "big", `spec.parameters.volumeSizeLimit: Invalid value: "big": must be a size`},
		"size below a page":       {"volumeSizeLimit", "4095", `must be at least 4096`},
		"size below zero":         {"volumeSizeLimit", "-16Mi", `must be a size`},
		"size in milli":           {"volumeSizeLimit", "16m", `must be a size`},
		"size beyond counting":    {"volumeSizeLimit", "1e999999999", `must be a size`},
		"size over 63 bits":       {"volumeSizeLimit", "99999999Ti", `more than any machine`},
		"size of exactly 63 bits": {"volumeSizeLimit", "8388608Ti", `more than any machine`},
		"too few inodes":          {"volumeInodeLimit", "7", `spec.parameters.volumeInodeLimit: Invalid value: "7": must be at least 8`},
		"unknown scope":           {"credentialScope", "Pod", `spec.parameters.credentialScope: Unsupported value: "Pod": supported values: "pod", "serviceAccount"`},
		"unknown onUnavailable":   {"onUnavailable", "retry", `spec.parameters.onUnavailable: Unsupported value: "retry"`},
		"unknown onDenied":        {"onDenied", "wipe", `spec.parameters.onDenied: Unsupported value: "wipe"`},
		"a pasted novel":          {"refreshInterval", strings.Repeat("x", 1000), `... (1000 bytes)"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := class.Parse(object(map[string]string{tc.key: tc.value}))
			if c != nil || fault.Of(err) != fault.InvalidClass {
				t.Fatalf("got class %v, reason %q", c, fault.Of(err))
			}
			if !strings.HasPrefix(err.Error(), "SecretProviderClass shop/db: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %s\nwant %s", err, tc.want)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error is %d bytes long", len(err.Error()))
			}
		})
	}
}

func TestParseNames(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*v1.SecretProviderClass)
		want string // empty: accepted
	}{
		"no namespace":      {func(o *v1.SecretProviderClass) { o.Namespace = "" }, ""},
		"longest provider":  {func(o *v1.SecretProviderClass) { o.Spec.Provider = "a_Z-" + strings.Repeat("9", 26) }, ""},
		"provider too long": {func(o *v1.SecretProviderClass) { o.Spec.Provider = strings.Repeat("v", 31) }, "spec.provider: Invalid value"},
		"provider empty":    {func(o *v1.SecretProviderClass) { o.Spec.Provider = "" }, "spec.provider: Required value"},
		"provider a path":   {func(o *v1.SecretProviderClass) { o.Spec.Provider = "../vault" }, "spec.provider: Invalid value"},
		"provider newline":  {func(o *v1.SecretProviderClass) { o.Spec.Provider = "vault\n" }, "spec.provider: Invalid value"},
		"no name":           {func(o *v1.SecretProviderClass) { o.Name = "" }, "metadata.name: Required value"},
		"bad name":          {func(o *v1.SecretProviderClass) { o.Name = "Db" }, "metadata.name: Invalid value"},
		"bad namespace":     {func(o *v1.SecretProviderClass) { o.Namespace = "a.b" }, "metadata.namespace: Invalid value"},
	} {
		t.Run(name, func(t *testing.T) {
			o := object(nil)
			tc.edit(o)
			_, _, err := class.Parse(o)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestParseNamesEveryMistake(t *testing.T) {
	o := object(map[string]string{"refreshInterval": "5", "volumeSizeLimit": "x", "onDenied": "y"})
	o.Spec.Provider = ""
	_, _, err := class.Parse(o)
	for _, want := range []string{"spec.provider", "spec.parameters.refreshInterval", "spec.parameters.volumeSizeLimit", "spec.parameters.onDenied"} {
		testkit.Says(t, err, want+": ")
	}
	var mistake *field.Error
	if !errors.As(err, &mistake) || mistake.Field != "spec.provider" {
		t.Errorf("no field.Error in the chain: %#v", mistake)
	}
}

func TestParseNil(t *testing.T) {
	if _, _, err := class.Parse(nil); err == nil {
		t.Error("no object gave no error")
	}
}

func TestParseWarnsOfMisspeltKeys(t *testing.T) {
	for key, want := range map[string]string{
		"refreshinterval":   "refreshInterval",
		"refresh-interval":  "refreshInterval",
		"RefreshIntervall":  "refreshInterval",
		"refeshInterval":    "refreshInterval",
		"volumeSizelimit":   "volumeSizeLimit",
		"volumeInodesLimit": "volumeInodeLimit",
		"onUnavailble":      "onUnavailable",
		"on_denied":         "onDenied",
		"credentialsScope":  "credentialScope",
		"roleName":          "", "objects": "", "vaultAddress": "", "audience": "", "region": "", "": "",
	} {
		c, warnings, err := class.Parse(object(map[string]string{key: "1s"}))
		if err != nil || c.Parameters[key] != "1s" {
			t.Errorf("%q is not left to the provider: %v", key, err)
			continue
		}
		switch {
		case want == "" && len(warnings) > 0:
			t.Errorf("%q: unwanted warning %q", key, warnings)
		case want != "" && (len(warnings) != 1 || warnings[0] != "spec.parameters."+key+": unknown; did you mean "+want+"?"):
			t.Errorf("%q: got %q, want one for %s", key, warnings, want)
		}
	}
}

func TestParseSecretObjects(t *testing.T) {
	data := []v1.SecretObjectData{{ObjectName: "dir/a", Key: "a"}}
	for name, tc := range map[string]struct {
		object v1.SecretObject
		want   string
	}{
		"fine":          {v1.SecretObject{SecretName: "s", Type: "example.com/own", Data: data}, ""},
		"no name":       {v1.SecretObject{Type: "Opaque", Data: data}, "spec.secretObjects[1].secretName: Required"},
		"bad name":      {v1.SecretObject{SecretName: "S", Type: "Opaque", Data: data}, "spec.secretObjects[1].secretName: Invalid"},
		"name twice":    {v1.SecretObject{SecretName: "first", Type: "Opaque", Data: data}, "is that of spec.secretObjects[0] too"},
		"no type":       {v1.SecretObject{SecretName: "s", Data: data}, "spec.secretObjects[1].type: Required"},
		"token type":    {v1.SecretObject{SecretName: "s", Type: "kubernetes.io/service-account-token", Data: data}, "spec.secretObjects[1].type: Forbidden"},
		"long type":     {v1.SecretObject{SecretName: "s", Type: strings.Repeat("t", 254), Data: data}, "spec.secretObjects[1].type: Too long"},
		"no data":       {v1.SecretObject{SecretName: "s", Type: "Opaque"}, "spec.secretObjects[1].data: Required"},
		"no key":        {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "a"}}}, "spec.secretObjects[1].data[0].key: Required"},
		"bad key":       {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "a", Key: "a/b"}}}, "spec.secretObjects[1].data[0].key: Invalid"},
		"no objectName": {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: []v1.SecretObjectData{{Key: "a"}}}, "spec.secretObjects[1].data[0].objectName: Required"},
		"key twice": {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "a", Key: "k"}, {ObjectName: "b", Key: "k"}}},
			"spec.secretObjects[1].data[1].key: Duplicate"},
		"bad label":      {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: data, Labels: map[string]string{"a b": "c"}}, "spec.secretObjects[1].labels: Invalid"},
		"bad annotation": {v1.SecretObject{SecretName: "s", Type: "Opaque", Data: data, Annotations: map[string]string{"a b": "c"}}, "spec.secretObjects[1].annotations: Invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			o := object(nil)
			o.Spec.SecretObjects = []v1.SecretObject{{SecretName: "first", Type: "Opaque", Data: data}, tc.object}
			c, warnings, err := class.Parse(o)
			if err != nil {
				t.Fatalf("a class that can be mounted is refused: %v", err)
			}
			kept := 1
			if tc.want == "" {
				kept = 2
			} else if len(warnings) != 1 || !strings.Contains(warnings[0], tc.want) {
				t.Errorf("got %q, want %s", warnings, tc.want)
			}
			testkit.Equal(t, "kept objects", len(c.SecretObjects), kept)
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("db", "vault", "refreshInterval", "1m", "first", "Opaque", "key")
	f.Add("db", "vault", "volumeSizeLimit", "1e99999", "first", "Opaque", "key")
	f.Add("db", "vault", "VolumeSizeLimit", "0.000000001Ti", "first", "", "")
	f.Fuzz(func(t *testing.T, name, provider, key, value, secretName, kind, secretKey string) {
		o := object(map[string]string{key: value, "roleName": "r"})
		o.Name, o.Spec.Provider = name, provider
		o.Spec.SecretObjects = []v1.SecretObject{{SecretName: secretName, Type: kind, Data: []v1.SecretObjectData{{ObjectName: name, Key: secretKey}}}}
		c, _, err := class.Parse(o)
		if (c == nil) == (err == nil) {
			t.Fatalf("class %v and error %v", c, err)
		}
		if err != nil {
			if fault.Of(err) != fault.InvalidClass || !strings.HasPrefix(err.Error(), "SecretProviderClass shop/"+name+": ") {
				t.Errorf("reason %s, text %s", fault.Of(err), err)
			}
			return
		}
		if c.RefreshInterval != 0 && c.RefreshInterval < class.MinRefreshInterval ||
			c.SizeLimit != 0 && c.SizeLimit < class.MinSizeLimit || c.InodeLimit != 0 && c.InodeLimit < class.MinInodeLimit {
			t.Errorf("out of bounds: %+v", c)
		}
		if c.Parameters["roleName"] != "r" && key != "roleName" {
			t.Error("a provider's parameter was lost")
		}
	})
}

func TestDidYouMean(t *testing.T) {
	known := []string{"vaultAddress", "vaultNamespace", "roleName", strings.Repeat("n", 65)}
	for name, want := range map[string]string{
		"vaultAdress": "vaultAddress", "RoleName": "roleName", "role-name": "roleName", "vaultNameSpaces": "vaultNamespace",
		"role": "", "roleNaming": "", "x": "", strings.Repeat("n", 64): "",
	} {
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		testkit.Equal(t, name, class.DidYouMean(name, known), want)
	}
}

// TestDocumentedClasses: the classes on the pages can be applied unchanged, and each store that a
// plugin serves has one.
func TestDocumentedClasses(t *testing.T) {
	pages := testkit.Value(filepath.Glob("../../docs/*.md"))(t)
	var providers []string
	for _, page := range append(pages, "../../README.md") {
		text := testkit.Value(os.ReadFile(page))(t)
		for _, block := range yamlBlocks(string(text)) {
			if strings.Contains(block, "kind: SecretProviderClass\n") {
				for _, spc := range documented(t, page, block) {
					providers = append(providers, spc.Spec.Provider)
				}
			}
		}
	}
	for _, want := range []string{"vault", "akeyless", "aws", "azure", "gcp", "conjur", "infisical"} {
		if !slices.Contains(providers, want) {
			t.Errorf("no page shows a class of %s", want)
		}
	}
}

func documented(t *testing.T, page, manifest string) []*v1.SecretProviderClass {
	t.Helper()
	classes, _, err := class.ParseManifest([]byte(manifest))
	if err != nil || len(classes) == 0 {
		t.Errorf("%s: %d classes, %v, in\n%s", page, len(classes), err, manifest)
	}
	for _, spc := range classes {
		if _, warnings, err := class.Parse(spc); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q, in\n%s", page, err, warnings, manifest)
		}
		for _, key := range []string{"objects", "secrets"} {
			checkNested(t, page, spc.Spec.Parameters[key])
		}
	}
	return classes
}

// checkNested reads the YAML in a parameter: a list, or Azure's "array" of strings that are YAML
// again.
func checkNested(t *testing.T, page, text string) {
	t.Helper()
	if text == "" {
		return
	}
	var azure struct {
		Array []string `json:"array"`
	}
	if yaml.Unmarshal([]byte(text), &azure) == nil && len(azure.Array) > 0 {
		for _, object := range azure.Array {
			var fields map[string]string
			if err := yaml.UnmarshalStrict([]byte(object), &fields); err != nil || len(fields) == 0 {
				t.Errorf("%s: %d fields, %v, in\n%s", page, len(fields), err, object)
			}
		}
		return
	}
	var list []map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &list); err != nil || len(list) == 0 {
		t.Errorf("%s: %d objects, %v, in\n%s", page, len(list), err, text)
	}
}

// yamlBlocks are the fenced YAML blocks of a page.
func yamlBlocks(text string) []string {
	var blocks []string
	for {
		_, rest, found := strings.Cut(text, "```yaml\n")
		if !found {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "```")
		blocks, text = append(blocks, block), after
	}
}
