package rendered_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

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
	files, err := add(c, 1<<20)
	testkit.Must(t, err)
	if files["dir/both"] != "db://app@13!" || files["env"] != "A='app'\nB='db://app@13!'\nURL='db://app@13'\n" || files["password"] != marker {
		t.Errorf("%q", files)
	}
	if files, err := add(&class.Class{}, 1<<20); err != nil || len(files) != 2 {
		t.Errorf("without any: %q, %v", files, err)
	}
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
	got, err := render(rendered.New(nil), c, p, 1<<20, budget.Owner{})
	testkit.Must(t, err)
	var list []string
	for _, f := range got.Files {
		list = append(list, fmt.Sprintf("%s %o %s", f.Path, f.Mode, f.Owner))
	}
	if want := "user 0 1:7, password 400 0:, url 640 8:6, plain 0 :7"; strings.Join(list, ", ") != want {
		t.Errorf("%q, want %s", list, want)
	}
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
	if _, err := render(rendered.New(b), c, payload(), 1<<20, o); fault.Of(err) != fault.TooLarge || !strings.Contains(err.Error(), `templates[0] "a"`) {
		t.Errorf("%v", err)
	}
	if got := b.Usage().Total; got != 0 {
		t.Errorf("%d bytes are still charged", got)
	}
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
	if _, err := rendered.Check(&class.Class{Templates: "- {filename: a, text: x}"}); err == nil || !strings.Contains(err.Error(), "fileName") {
		t.Errorf("a misspelt field: %v", err)
	}
	if warnings, err := rendered.Check(&class.Class{Templates: "- {fileName: a, text: x, colour: red}"}); err != nil || len(warnings) != 1 {
		t.Errorf("an unknown field: %q, %v", warnings, err)
	}
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
	if left := b.Usage().Total; left != 0 {
		t.Errorf("%d bytes are left", left)
	}
}
