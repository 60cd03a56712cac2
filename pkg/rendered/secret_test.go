package rendered_test

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	if text := fmt.Sprintf("%s %s %s", got.Data, got.Labels, got.Annotations); text != want {
		t.Errorf("%s, want %s", text, want)
	}
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
	if _, err := ofSecret(rendered.New(b), c); fault.Of(err) != fault.TooLarge {
		t.Errorf("%v", err)
	}
	if got := b.Usage().Total; got != 0 {
		t.Errorf("%d bytes are still charged", got)
	}
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
