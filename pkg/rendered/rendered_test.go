package rendered_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const marker = "s3cr3t-marker"

func payload() *provider.Payload {
	return &provider.Payload{
		Files:    []provider.File{{Path: "user", Contents: secret.NewBytes([]byte("app"))}, {Path: "password", Mode: 0o400, Contents: secret.NewBytes([]byte(marker))}},
		Versions: []provider.Version{{ID: "user", Version: "1"}},
	}
}

func add(c *class.Class, most int64) (map[string]string, error) {
	before := payload()
	got, err := render(rendered.New(nil), c, before, most, budget.Owner{})
	if err != nil {
		return nil, err
	}
	if len(before.Files) != 2 {
		return nil, errors.New("the payload itself was changed")
	}
	files := map[string]string{}
	for _, f := range got.Files {
		files[f.Path] = string(f.Contents.Reveal())
	}
	return files, nil
}

func TestAdd(t *testing.T) {
	c := &class.Class{
		Templates: "- {fileName: url, text: 'db://{{ .user }}@{{ len .password }}'}\n- {fileName: dir/both, mode: 0400, text: '{{ .url }}!'}",
		Formats:   "- {fileName: env, format: env, variables: {URL: url, B: dir/both, A: user}}",
	}
	files := testkit.Value(add(c, 1<<20))(t)
	if files["dir/both"] != "db://app@13!" || files["env"] != "A='app'\nB='db://app@13!'\nURL='db://app@13'\n" || files["password"] != marker {
		t.Errorf("%q", files)
	}
	testkit.Equal(t, "files without any template", len(testkit.Value(add(&class.Class{}, 1<<20))(t)), 2)
}

func TestAddFails(t *testing.T) {
	for _, c := range []struct {
		class  class.Class
		want   string
		reason fault.Reason
	}{
		{class.Class{Templates: "- {fileName: user, text: x}"}, `spec.parameters.templates[0].fileName: an object has the file name "user" too`, fault.InvalidClass},
		{class.Class{Templates: "- {fileName: a, text: x}\n- {fileName: b, text: '{{ .passwd }}'}"}, `spec.parameters.templates[1] "b": line 1, column 3 of the text: there is no "passwd"; did you mean password?`, fault.InvalidClass},
		{class.Class{Templates: "- {fileName: a, text: '{{ repeat 3000 .password }}'}"}, "larger than the volume may be", fault.InvalidClass},
		{class.Class{Templates: "- {fileName: a, text: '{{ range 1000000 }}{{ end }}'}\n- {fileName: b, text: '{{ range 1000000 }}{{ end }}'}"}, "one of them loops", fault.InvalidClass},
		{class.Class{Formats: "- {fileName: a, format: env, variables: {A: usr}}"}, `spec.parameters.formats[0] "a": variables: A: the volume has no file "usr"; did you mean user?`, fault.InvalidClass},
		{class.Class{Formats: "- {fileName: a, format: pkcs12, certificate: user, key: password}"}, `certificate: object "user" has no PEM block CERTIFICATE`, fault.InvalidClass},
		{class.Class{Permissions: "- {fileName: Password, mode: 0400}"}, `spec.parameters.permissions[0].fileName: the volume has no file "Password"; did you mean "password"?`, fault.InvalidClass},
	} {
		_, err := add(&c.class, 1<<10)
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != c.reason || strings.Contains(err.Error(), marker) {
			t.Errorf("%v (%s), want %s", err, fault.Of(err), c.want)
		}
	}
}

// permissions goes before what objects, templates and plugins say; "*" is for the files that it does
// not name.
func TestPermissions(t *testing.T) {
	p := payload()
	p.Files[0].Owner.UID = new(uint32(1))
	c := &class.Class{
		Templates:   "- {fileName: url, text: x, mode: 0600, uid: 5, gid: 6}\n- {fileName: plain, text: x}",
		Permissions: "- {fileName: '*', gid: 7}\n- {fileName: url, mode: 0640, user: 8}\n- {fileName: password, uid: 0}\n- {fileName: optional, uid: 9}",
	}
	got := testkit.Value(render(rendered.New(nil), c, p, 1<<20, budget.Owner{}))(t)
	var list []string
	for _, f := range got.Files {
		list = append(list, fmt.Sprintf("%s %o %s", f.Path, f.Mode, f.Owner))
	}
	testkit.Equal(t, "the files", strings.Join(list, ", "), "user 0 1:7, password 400 0:, url 640 8:6, plain 0 :7")
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], `permissions[3].fileName: the volume has no file "optional"`) {
		t.Errorf("warnings %q", got.Warnings)
	}
	if p.Files[1].Owner.UID != nil || len(p.Warnings) > 0 {
		t.Error("the payload itself was changed")
	}
}

// What templates need is the volume's memory.
func TestBudget(t *testing.T) {
	b, o := budget.New(budget.Limits{Volume: 1 << 20}), budget.Owner{Namespace: "shop", Volume: "v"}
	c := &class.Class{Templates: "- {fileName: a, text: '{{ $x := repeat 2000000 `x` }}'}"}
	testkit.Failure(render(rendered.New(b), c, payload(), 1<<20, o))(t, fault.TooLarge, `templates[0] "a"`)
	testkit.Equal(t, "bytes are still charged", b.Usage().Total, 0)
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		class class.Class
		field string
		want  string
	}{
		{class.Class{Templates: "x"}, "spec.parameters.templates", "must be a YAML list"},
		{class.Class{Templates: "- {fileName: ../a, text: x}"}, "spec.parameters.templates[0].fileName", "relative path"},
		{class.Class{Templates: "- {fileName: a}"}, "spec.parameters.templates[0].text", "Required"},
		{class.Class{Templates: "- fileName: a\n  text: |\n    x\n    {{ nosuch }}\n"}, "spec.parameters.templates[0].text", `line 4: the template "a": function "nosuch" not defined`},
		{class.Class{Templates: "- {fileName: a, text: x, mode: 7777}"}, "spec.parameters.templates[0].mode", "file mode"},
		{class.Class{Templates: "- {fileName: a, text: x}\n- {fileName: a, text: y}"}, "spec.parameters.templates[1].fileName", "same as spec.parameters.templates[0].fileName"},
		{class.Class{Templates: strings.Repeat("- {fileName: a, text: x}\n", 101)}, "spec.parameters.templates", "101 files"},
		{class.Class{Formats: "- {fileName: a, format: p12, chain: c}"}, "spec.parameters.formats[0].format", "must be pkcs12, jks, pem-bundle or env"},
		{class.Class{Formats: "- {fileName: a, format: jks, certificate: c}"}, "spec.parameters.formats[0].certificate", "go together"},
		{class.Class{Formats: "- {fileName: a, format: jks}"}, "spec.parameters.formats[0].certificate", "Required"},
		{class.Class{Formats: "- {fileName: a, format: pem-bundle, chain: c, password: p}"}, "spec.parameters.formats[0].password", "does not go with format pem-bundle"},
		{class.Class{Formats: "- {fileName: a, format: env}"}, "spec.parameters.formats[0].variables", "Required"},
		{class.Class{Formats: "- {fileName: a, format: env, variables: {1A: x}}"}, "spec.parameters.formats[0].variables", `"1A"`},
		{class.Class{Formats: "- {fileName: a, format: env, chain: c, variables: {A: x}}"}, "spec.parameters.formats[0].chain", "does not go"},
		{class.Class{Templates: "- {fileName: a, text: x, uid: root}"}, "spec.parameters.templates[0].uid", "whole number from 0 to 4294967294"},
		{class.Class{Permissions: "- {fileName: a}"}, "spec.parameters.permissions[0]", "none of mode, uid and gid"},
		{class.Class{Permissions: "- {uid: 1}"}, "spec.parameters.permissions[0].fileName", "Required"},
		{class.Class{Permissions: "- {fileName: a, uid: 1}\n- {fileName: a, gid: 1}"}, "spec.parameters.permissions[1].fileName", "same as spec.parameters.permissions[0].fileName"},
	} {
		_, err := rendered.Check(&c.class)
		if err == nil || !strings.HasPrefix(err.Error(), c.field+": ") || !strings.Contains(err.Error(), c.want) || fault.Of(err) != fault.InvalidClass {
			t.Errorf("%v, want %s: %s", err, c.field, c.want)
		}
	}
	testkit.Error(rendered.Check(&class.Class{Templates: "- {filename: a, text: x}"}))(t, "fileName") // a misspelt field
	testkit.Equal(t, "warnings about an unknown field", len(testkit.Value(rendered.Check(&class.Class{Templates: "- {fileName: a, text: x, colour: red}"}))(t)), 1)
}

func FuzzCheck(f *testing.F) {
	f.Add("- {fileName: a, text: '{{ .user }}'}", "- {fileName: b, format: env, variables: {A: user}}")
	f.Fuzz(func(t *testing.T, templates, formats string) {
		c := &class.Class{Templates: templates, Formats: formats}
		if _, err := rendered.Check(c); err != nil {
			return
		}
		if _, err := render(rendered.New(nil), c, payload(), 1<<16, budget.Owner{}); err != nil && !strings.Contains(templates+formats, marker) && strings.Contains(err.Error(), marker) {
			t.Errorf("the error quotes a value: %v", err)
		}
	})
}

func render(r *rendered.Renderer, c *class.Class, p *provider.Payload, limit int64, o budget.Owner) (*provider.Payload, error) {
	prepared, _, err := r.Prepare("v", c)
	if err != nil {
		return nil, err
	}
	return prepared.Render(p, limit, o)
}

// A version of a class is compiled once for all of its volumes, and kept as long as one uses it.
func TestCompiledIsKept(t *testing.T) {
	b := budget.New(budget.Limits{})
	r := rendered.New(b)
	prepare := func(volume, version, text string) (rendered.Rendering, []string) {
		t.Helper()
		c := &class.Class{Ref: class.Ref{Namespace: "shop", Name: "c"}, UID: "u", ResourceVersion: version, Templates: "- {fileName: a, text: '" + text + "', colour: red}"}
		got, warnings, err := r.Prepare(volume, c)
		if err != nil || len(warnings) != 1 {
			t.Fatalf("warnings %q, error %v", warnings, err)
		}
		return got, warnings
	}
	first, said := prepare("v1", "1", "one")
	if again, same := prepare("v2", "1", "one"); again != first || !slices.Equal(same, said) {
		t.Error("the second volume has its own")
	}
	edited, _ := prepare("v1", "2", "{{ .password }}")
	if edited == first {
		t.Error("an edit changed nothing")
	}
	var renders sync.WaitGroup
	for i := range 8 {
		renders.Go(func() {
			p := &provider.Payload{Files: []provider.File{{Path: "password", Contents: secret.NewBytes(fmt.Append(nil, i))}}}
			got, err := edited.Render(p, 1<<20, budget.Owner{})
			if err != nil || len(got.Files) != 2 || string(got.Files[1].Contents.Reveal()) != fmt.Sprint(i) {
				t.Errorf("rendering %d: %v", i, err)
			}
		})
	}
	renders.Wait()
	if b.Usage().ByKind[budget.Cache] == 0 {
		t.Error("what is kept is not charged")
	}
	r.Leave("v1")
	r.Leave("v2")
	testkit.Equal(t, "bytes are left", b.Usage().Total, 0)
}

func withSecret(templates string) *class.Class {
	return &class.Class{
		Ref: class.Ref{Namespace: "shop", Name: "db"}, SecretTemplates: templates,
		SecretObjects: []v1.SecretObject{{
			SecretName: "env", Type: "Opaque", Labels: map[string]string{"fixed": ""}, Annotations: map[string]string{"note": "x"},
			Data: []v1.SecretObjectData{{ObjectName: "password", Key: "taken"}},
		}},
	}
}

// ofSecret renders the templates of the Secret env.
func ofSecret(r *rendered.Renderer, c *class.Class) (*rendered.SecretParts, error) {
	prepared, _, err := r.Prepare("v", c)
	if err != nil {
		return nil, err
	}
	s, err := prepared.(*rendered.Prepared).Secrets(payload().Files, []provider.Version{{ID: "password", Version: "3"}}, budget.Owner{Namespace: "shop", Volume: "v"})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	t := s.Of("env")
	if t == nil {
		return nil, nil
	}
	return s.Render(t)
}

func TestSecret(t *testing.T) {
	got, err := ofSecret(rendered.New(nil), withSecret(`
- secretName: env
  data: {DSN: 'db://{{ .user }}:{{ len .password }}'}
  labels: {app.kubernetes.io/part-of: '{{ .class }}-{{ .namespace }}', none: '{{ "" }}'}
  annotations: {example.com/Version: '{{ (fromJson .versions).password }} of {{ .secretName }}'}
`))
	testkit.Must(t, err)
	want := "map[DSN:db://app:13] map[app.kubernetes.io/part-of:db-shop none:] map[example.com/Version:3 of env]"
	testkit.Equal(t, "the Secret", fmt.Sprintf("%s %s %s", got.Data, got.Labels, got.Annotations), want)
	if got, err := ofSecret(rendered.New(nil), withSecret("")); err != nil || got != nil {
		t.Errorf("without any: %v, %v", got, err)
	}
}

// Metadata has no secrets, whatever a template asks for; and what the API server would refuse of
// it is refused before.
func TestSecretRefused(t *testing.T) {
	for _, c := range []struct{ entry, want string }{
		{"data: {A: '{{ .passwd }}'}", `secretTemplates[0].data[A]: line 1, column 3 of the text: there is no "passwd"; did you mean password?`},
		{"data: {A: '{{ atoi .password }}'}", "the value is no whole number"},
		{"data: {A: '{{ range 10000000 }}{{ end }}'}", "one of them loops"},
		{"labels: {a: '{{ .password }}'}", `secretTemplates[0].labels[a]: line 1, column 3 of the text: there is no "password"`},
		{`labels: {a: '{{ secret "password" }}'}`, `there is no "password"`},
		{"annotations: {a: '{{ .password }}'}", "metadata is no place for secrets"},
		{"labels: {a: '{{ .class }} x'}", "secretTemplates[0].labels[a]: what is rendered cannot be used: a valid label"},
		{"labels: {a: '{{ repeat 64 `a` }}'}", "must be no more than 63"},
		{"annotations: {a: '{{ b64dec `/w==` }}'}", "secretTemplates[0].annotations[a]: what is rendered cannot be used: must be UTF-8"},
		{"annotations: {a: '{{ repeat 262144 `a` }}'}", "secretTemplates[0].annotations: "},
	} {
		_, err := ofSecret(rendered.New(nil), withSecret("- {secretName: env, "+c.entry+"}"))
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.Of(err) != fault.InvalidClass || strings.Contains(err.Error(), marker) {
			t.Errorf("%s: %v (%s), want %s", c.entry, err, fault.Of(err), c.want)
		}
	}
}

func TestSecretBudget(t *testing.T) {
	b := budget.New(budget.Limits{Volume: 1 << 20})
	c := withSecret("- {secretName: env, data: {A: '{{ $x := repeat 2000000 `x` }}'}}")
	testkit.Failure(ofSecret(rendered.New(b), c))(t, fault.TooLarge)
	testkit.Equal(t, "bytes are still charged", b.Usage().Total, 0)
}

func TestCheckSecrets(t *testing.T) {
	many := func(n int) string {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "%d: '{{ 1 }}', ", i)
		}
		return text.String()
	}
	for _, c := range []struct{ list, field, want string }{
		{"- {data: {A: x}}", "[0].secretName", "Required"},
		{"- {secretName: env, data: {A: x}}\n- {secretName: env}", "[1].secretName", "same as spec.parameters.secretTemplates[0].secretName"},
		{"- {secretName: env, data: {taken: x}}", "[0].data", `the key "taken" has a value in spec.secretObjects too`},
		{"- {secretName: env, labels: {fixed: x}}", "[0].labels", "spec.secretObjects too"},
		{"- {secretName: env, annotations: {note: x}}", "[0].annotations", "spec.secretObjects too"},
		{"- {secretName: env, data: {a/b: x}}", "[0].data", `"a/b" cannot be used`},
		{"- {secretName: env, labels: {'a b': x}}", "[0].labels", `"a b" cannot be used`},
		{"- {secretName: env, annotations: {'a b': x}}", "[0].annotations", `"a b" cannot be used`},
		{"- {secretName: env, data: {A: 5}}", "[0].data", "put it in quotes"},
		{"- {secretName: env, data: x}", "[0].data", "must be a map"},
		{"- {secretName: env, data: {A: '{{ now }}'}}", "[0].data", `the template of the key "A": line 1 of the text: function "now" not defined`},
		{"- {secretName: env, data: {" + many(101) + "}}", "[0].data", "101 templates"},
		{"- {secretName: env, data: {" + many(60) + "}, labels: {" + many(60) + "}}", "", "more than 100 templates"},
	} {
		_, err := rendered.Check(withSecret(c.list))
		if err == nil || !strings.HasPrefix(err.Error(), "spec.parameters.secretTemplates"+c.field+": ") || !strings.Contains(err.Error(), c.want) || fault.Of(err) != fault.InvalidClass {
			t.Errorf("%v, want %s: %s", err, c.field, c.want)
		}
	}
	warnings, err := rendered.Check(withSecret("- {secretName: other, data: {A: x}, colour: red}"))
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], `no usable entry of spec.secretObjects has the secretName "other"`) {
		t.Errorf("%q, %v", warnings, err)
	}
}

func FuzzSecret(f *testing.F) {
	f.Add("- secretName: env\n  data: {A: '{{ .password }}'}\n  labels: {a: '{{ .class }}'}\n  annotations: {b: '{{ .versions }}'}")
	f.Add("- {secretName: env, labels: {a: '{{ secret `password` }}'}}")
	f.Fuzz(func(t *testing.T, list string) {
		c := withSecret(list)
		if _, err := rendered.Check(c); err != nil {
			return
		}
		got, err := ofSecret(rendered.New(nil), c)
		if strings.Contains(list, marker) {
			return
		}
		if err != nil && strings.Contains(err.Error(), marker) {
			t.Errorf("the error quotes a value: %v", err)
		}
		if err == nil && got != nil && strings.Contains(fmt.Sprint(got.Labels, got.Annotations), marker) {
			t.Errorf("metadata has a value: %v", got)
		}
	})
}
