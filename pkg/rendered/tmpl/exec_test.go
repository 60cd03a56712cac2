package tmpl

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"text/template"
)

// alike renders a text with text/template too, with the same functions. Both must write the same,
// or fail at the same place; what is in parentheses has a more exact one here.
func alike(t *testing.T, text string, values map[string]string) {
	t.Helper()
	compiled, bad := Compile(text)
	if bad != nil {
		return // text/template has no bounds
	}
	limits := Limits{Steps: 1 << 16, Bytes: 1 << 18, Output: 1 << 18}
	got, gotErr := compiled.Render(values, &limits)
	if e := (*Error)(nil); errors.As(gotErr, &e) && (limits.Steps < 0 || limits.Bytes < 0 || e.Line == 0) {
		return
	}
	m := &meter{limits: DefaultLimits(), values: make(map[string]any, len(values))}
	for name, value := range values {
		m.values[name] = value
	}
	functions := m.functions()
	for name := range builtins() {
		delete(functions, name)
	}
	reference, err := template.New(rootName).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		t.Fatalf("%s: text/template: %v", text, err)
	}
	out := &output{meter: m, left: m.limits.Output}
	wantErr := reference.Execute(out, maps.Clone(m.values))
	if (gotErr == nil) != (wantErr == nil) || gotErr == nil && string(got) != string(out.text) {
		t.Fatalf("%s\n got %q, %v\nwant %q, %v", text, got, gotErr, out.text, wantErr)
	}
	if e := (*Error)(nil); errors.As(gotErr, &e) && !strings.Contains(text, "(") {
		if at := place.FindStringSubmatch(wantErr.Error()); at == nil || at[1] != fmt.Sprint(e.Line) || at[2] != fmt.Sprint(e.Column) {
			t.Fatalf("%s\n got %v\nwant %v", text, gotErr, wantErr)
		}
	}
}

var likeValues = map[string]string{
	"user": "app", "empty": "", "html": `<a b='c'>&"\` + "\x00\x7f\xff\ufffdü\u2028",
	"json": `{"user":"u","port":5432,"zero":0,"big":12345678901234567890,"ratio":0.5,"large":1e21,"on":true,"off":false,"none":null,"list":["a","b",null,[1]],"deep":{"k":{"x":"y"}},"nothing":{},"no":[]}`,
}

// likeTexts go through every kind of node and value.
var likeTexts = []string{
	`a {{- /* c */ -}} b{{ "x" }}{{ 'a' }}{{ 0x1F }}{{ 1.5 }}{{ 1e3 }}{{ 1i }}{{ true }}{{ 1_000 }}{{ 0x1p4 }}`,
	`{{ . }}{{ fromJson .json }}{{ (fromJson .json).list }}{{ (fromJson .json).none }}{{ (fromJson .json).large }}`,
	`{{ $d := fromJson .json }}{{ range $k, $v := $d }}{{ $k }}={{ $v }};{{ if $v }}t{{ else }}f{{ end }}{{ not $v }}{{ end }}`,
	`{{ $d := fromJson .json }}{{ range $d.list }}[{{ . }}]{{ end }}{{ range $i, $e := $d.list }}{{ $i }}{{ $e }}{{ end }}{{ range $d.no }}x{{ else }}none{{ end }}{{ range $d.none }}x{{ else }}nil{{ end }}`,
	`{{ range 3 }}{{ . }}{{ end }}{{ range $i := 3 }}{{ $i }}{{ end }}{{ range -1 }}{{ else }}neg{{ end }}{{ range (fromJson "2") }}{{ . }}{{ end }}{{ range $i, $j := 3 }}{{ end }}`,
	`{{ range 5 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}`,
	`{{ range 2 }}{{ . }}{{ range 0 }}{{ else }}{{ break }}{{ end }}b{{ end }}{{ range 2 }}{{ range 0 }}{{ else }}{{ continue }}{{ end }}b{{ end }}`,
	`{{ $x := 1 }}{{ range $i := 3 }}{{ $x = add $x $i }}{{ $y := $x }}{{ end }}{{ $x }}{{ if $x := 2 }}{{ $x }}{{ end }}{{ $x }}{{ with $x := 5 }}{{ . }}{{ $x }}{{ end }}`,
	`{{ $i := 0 }}{{ $e := 0 }}{{ range $i, $e = splitList "," "a,b" }}{{ end }}{{ $i }}{{ $e }}{{ range $e = 3 }}{{ end }}{{ $e }}`,
	`{{ range $0 = 0 }}{{ end }}`, `{{ range $i, $0 = 1 }}{{ end }}`,
	`{{ with .empty }}x{{ else with .user }}{{ . }}{{ $.user }}{{ else }}z{{ end }}{{ if .empty }}a{{ else if .user }}b{{ end }}`,
	`{{ define "a" }}{{ $ }}{{ . }}{{ end }}{{ template "a" }}{{ template "a" .user }}{{ block "b" 1 }}{{ . }}{{ end }}{{ define "c" }}{{ end }}{{ template "c" }}`,
	`{{ and 1 0 2 }}{{ or 0 "" 3 }}{{ and .user }}{{ or .empty }}{{ and 1 (fail 1) }}`, `{{ or 1 (fail 1) }}{{ 1 | and 2 }}{{ 0 | or 0 }}{{ 5 | and 0 }}{{ and nil 1 }}{{ or nil }}`,
	`{{ len .user }}{{ len (fromJson .json) }}{{ len (fromJson .json).list }}{{ len (fromJson .json).big }}{{ len 3 }}`, `{{ len nil }}`,
	`{{ slice .user 1 }}{{ slice .user 1 2 }}{{ slice .user }}{{ slice (fromJson .json).list 1 2 }}{{ slice (fromJson .json).list 0 1 2 }}`,
	`{{ slice .user 2 1 }}`, `{{ slice .user 4 }}`, `{{ slice .user -1 }}`, `{{ slice .user 0 1 2 }}`, `{{ slice .user "1" }}`, `{{ slice 1 }}`, `{{ slice nil }}`,
	`{{ html .html }}{{ js .html }}{{ urlquery .html }}`, `{{ print nil }}`, `{{ printf "%v" nil }}`, `{{ nil }}`, `{{ (fromJson .json).none.x }}`,
	`{{ .user.x }}`, `{{ .gone }}`, `{{ $.gone }}`, `{{ (fromJson .json).deep.gone.x }}`, "\n  {{ .user | upper | lower | nindent 2 | .user }}", `{{ .user 1 }}`, `{{ 1 2 }}`, `{{ (1) 2 }}`, `{{ 1 | 2 }}`, `{{ $ 1 }}`,
	`{{ secret 1 }}`, `{{ secret (atoi "1") }}`, `{{ secret nil }}`, `{{ secret }}`, `{{ secret "user" "x" }}`, `{{ "user" | secret }}`, `{{ printf }}`, `{{ index }}`, `{{ add }}`, `{{ "x" | printf }}`,
	`{{ ternary 1 2 true }}{{ true | ternary 1 2 }}{{ ternary 1 2 3 }}`, `{{ ternary 1 2 (eq 1 1) }}{{ ternary nil 2 true }}`, `{{ and }}`, `{{ not }}`, `{{ not 1 2 }}`,
	`{{ template "a" }}{{ define "a" }}` + "\n\n" + `{{ .x.y }}{{ end }}`, `{{ range "abc" }}{{ end }}`, `{{ range 1.5 }}{{ end }}`, `{{ range (fromJson .json).big }}{{ end }}`, `{{ first.x }}`, `{{ (first (fromJson .json).list).x }}`,
	`{{ trunc -9223372036854775808 "x" }}`, `{{ 9223372036854775807 }}`, `{{ 18446744073709551615 }}`, `{{ print 18446744073709551615 }}`, `{{ call .user }}`, `{{ (fromJson .json).port | printf "%d" }}`,
}

func TestLikeTextTemplate(t *testing.T) {
	for _, text := range likeTexts {
		t.Run("", func(t *testing.T) { alike(t, text, likeValues) })
	}
}

func FuzzLikeTextTemplate(f *testing.F) {
	for _, text := range likeTexts {
		f.Add(text, "x")
	}
	f.Fuzz(func(t *testing.T, text, v string) {
		values := maps.Clone(likeValues)
		values["v"] = v
		alike(t, text, values)
	})
}
