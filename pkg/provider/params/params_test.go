package params_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func known() params.Known {
	return params.Known{Keys: []string{"objects", "address", "skip", "mode", "token", "cert", "key"}, Long: []string{"objects"}, Secret: []string{"token"}}
}

func errs(s *params.Set) string { return fmt.Sprint(s.Errs.ToAggregate()) }

func TestSet(t *testing.T) {
	s := params.New(map[string]string{
		"address": "a", "adress": "b", "skip": "perhaps", "mode": "odd", "token": "marker-token\n", "cert": "c", "key": "",
		strings.Repeat("x", 500): "y",
	}, known())
	if s.Get("address", "def") != "a" || s.Get("key", "def") != "def" || s.Has("key") || !s.Has("cert") {
		t.Error("values are not what was given")
	}
	s.Bool("skip", false)
	s.Word("mode", "even", "even", "uneven")
	s.Together("they go together", "cert", "key")
	text := errs(s)
	testkit.Has(t, text, `spec.parameters.token: Invalid value: "[redacted]"`, `spec.parameters.skip: Invalid value: "perhaps"`,
		`spec.parameters.mode: Unsupported value: "odd": supported values: "even", "uneven"`,
		"spec.parameters.key: Required value: they go together")
	if strings.Contains(text, "marker") || len(s.Errs) != 4 {
		t.Errorf("errors: %s", text)
	}
	warnings := strings.Join(s.Warnings, "\n")
	if len(s.Warnings) != 2 || !strings.Contains(warnings, "spec.parameters.adress: unknown; did you mean address?") || len(warnings) > 400 {
		t.Errorf("warnings: %s", warnings)
	}
}

// TestNames: a key has other names in classes, and each may be used alone.
func TestNames(t *testing.T) {
	k := params.Known{Keys: []string{"mount", "role"}, Names: map[string][]string{"mount": {"newMount", "oldMount"}}}
	s := params.New(map[string]string{"oldMount": "a", "mount": "b", "oldMuont": "c"}, k)
	if s.Get("mount", "") != "a" || s.Field("mount").String() != "spec.parameters.oldMount" || len(s.Errs) != 0 {
		t.Errorf("mount is %q at %s, %s", s.Get("mount", ""), s.Field("mount"), errs(s))
	}
	if len(s.Warnings) != 2 || s.Warnings[1] != "spec.parameters.oldMuont: unknown; did you mean oldMount?" {
		t.Errorf("warnings %q", s.Warnings)
	}
	s = params.New(map[string]string{"oldMount": "a", "newMount": "b"}, k)
	testkit.Equal(t, "errors with both names", errs(s), "spec.parameters.oldMount: Forbidden: says the same as newMount, which is set too: keep one of them")
	s = params.New(map[string]string{"oldMount": ""}, k)
	s.Required("mount", "where")
	s.Required("role", "which")
	testkit.Equal(t, "errors where both are missing", errs(s), "[spec.parameters.newMount: Required value: where, spec.parameters.role: Required value: which]")
}

func list(text string) (*params.Set, []params.Object) {
	s := params.New(map[string]string{"objects": text}, known())
	return s, s.Objects("objects")
}

func TestObjectsRefused(t *testing.T) {
	deep := strings.Repeat("[", 3000)
	for text, want := range map[string]string{
		"":                                  "spec.parameters.objects: Required value",
		"[]":                                "at least one object",
		"a: b":                              "must be a YAML list of objects",
		"- just text":                       "spec.parameters.objects[0]: Invalid value: \"\": line 1: must be a map of fields, not text",
		"- a: 1\n  a: 2":                    `objects[0]: Invalid value: "": line 2: the key "a" is given twice`,
		"- [a]: 1":                          "a key must be a string",
		"- a: b: c":                         "is not YAML",
		deep:                                "is not YAML",
		strings.Repeat("- {a: b}\n", 1001):  "Too many",
		strings.Repeat(" ", 600<<10) + "[]": "bytes long",
	} {
		s, _ := list(text)
		if !strings.Contains(errs(s), want) {
			t.Errorf("%.40q: %s, want %q", text, errs(s), want)
		}
	}
}

func TestFields(t *testing.T) {
	s, objects := list(`
- &one
  text: hello
  number: 7
  yes: true
  file: dir/name
  mode: 0640
  modern: 0o440
  decimal: 288
  encoding: BASE64
  map: {a: 1, b: [true, null, 1.50, 0x10], c: {d: e}, f: [.5, 1., +2.5]}
  nothing:
- {<<: *one, text: other}`)
	if len(objects) != 2 || len(s.Errs) != 0 {
		t.Fatalf("%d objects, %s", len(objects), errs(s))
	}
	one := byName(objects[0])
	if one["text"].Text() != "hello" || one["number"].Number(1, 9) != 7 || !one["yes"].Bool() || one["file"].FileName() != "dir/name" {
		t.Error("simple fields")
	}
	if one["mode"].Mode() != 0o640 || one["modern"].Mode() != 0o440 || one["decimal"].Mode() != 0o440 || one["encoding"].Encoding() != params.Base64 {
		t.Error("modes and encodings")
	}
	testkit.Equal(t, "the map", string(testkit.Value(params.JSON(one["map"].Map()))(t)), `{"a":1,"b":[true,null,1.50,16],"c":{"d":"e"},"f":[0.5,1,2.5]}`)
	if _, ok := one["nothing"]; ok {
		t.Error("a field without a value is there")
	}
	two := byName(objects[1])
	if two["text"].Text() != "other" || two["number"].Number(1, 9) != 7 {
		t.Error("a merge gives way to the map's own keys, and brings the others")
	}
	if len(s.Errs) != 0 {
		t.Errorf("errors: %s", errs(s))
	}
	_ = two["text"].Number(1, 2)
	if one["number"].Text() != "7" || one["yes"].Text() != "true" {
		t.Error("a scalar without quotes is not the text that stands there")
	}
	_ = one["map"].Text()
	_ = one["text"].Bool()
	_ = one["text"].Mode()
	_ = one["text"].Encoding()
	_ = one["text"].Map()
	_ = one["map"].Mode()
	if text, is := one["map"].IsText(); is {
		t.Errorf("a map is the text %q", text)
	}
	testkit.Has(t, errs(s), `objects[1].text: Invalid value: "other": line 13: must be a whole number from 1 to 2`,
		"must be text, not a map", "such as 416, not a map", "must be true or false", "must be a file mode", "must be utf-8, base64 or hex", "must be a map of arguments, not text")
}

func byName(o params.Object) map[string]params.Field {
	m := map[string]params.Field{}
	for _, f := range o.Fields {
		m[f.Name] = f
	}
	return m
}

func TestFileNames(t *testing.T) {
	for _, name := range []string{`../up`, `/abs`, `..data/x`, `a//b`, `"a\0b"`, `""`, strings.Repeat("x", 256)} {
		s, objects := list("- file: " + name)
		if len(objects) == 1 {
			byName(objects[0])["file"].FileName()
		}
		if len(s.Errs) == 0 {
			t.Errorf("%q is a file name", name)
		}
	}
	s := params.New(nil, known())
	at := s.Field("objects").Index(1).Child("fileName")
	s.CheckFiles([]params.NamedFile{{"a", 0, at, false}, {"a", 1, at, false}, {"b/c", 2, at, false}, {"b", 3, at, false}, {"d", 4, at, true}, {"d", 5, at, true}, {"d", 6, at, false}})
	testkit.Has(t, errs(s), "objects[1].fileName: Duplicate value", "objects[0] has this name too", `objects[3] is the file "b"`, `Invalid value: "d": objects[6] is the file "d", so it cannot be a directory`)
}

// TestAliasBomb: a list that expands to millions of nodes soon fails.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("- map:\n    a0: &a0 {x: 1, y: 2}\n")
	for i := range 30 {
		fmt.Fprintf(&b, "    a%d: &a%d {x: *a%d, y: *a%d}\n", i+1, i+1, i, i)
	}
	s, objects := list(b.String())
	if len(objects) == 1 {
		byName(objects[0])["map"].Map()
	}
	testkit.Has(t, errs(s), "too much")
}

func TestValues(t *testing.T) {
	var data map[string]any
	if err := params.Decode([]byte(`{"big":12345678901234567890}`), &data); err != nil || data["big"] != json.Number("12345678901234567890") {
		t.Fatal(data, err)
	}
	raw := []byte(`{"a.b":1,"a":{"b":2,"l":[{"n":"x"}],"c.d":{"e\\f":3},"":4}}`)
	for key, want := range map[string]string{
		`a\.b`: "1", `a.c\.d.e\f`: "3", `a.c\.d.e\\f`: "3", "a.c.d": "", "a.": "4", `a\\.b`: "", "a.b": "1", "a.l.0.n": `"x"`, "nope": "", "a.nope": "", "a.l.1": "", "a.l.-1": "", "a.l.x": "", "a.b.x": "", "": ""} {
		testkit.Equal(t, key, string(params.Pick(raw, key)), want)
	}
	testkit.Equal(t, "keys", params.Keys(raw), `"a", "a.b"`)
	for _, text := range []string{`{} {}`, `{} ]`, `{}}`} {
		if params.Decode([]byte(text), &data) == nil {
			t.Errorf("%s is one value", text)
		}
	}
	var value any
	for text, want := range map[string]any{`"a\u0062"`: "ab", " \"a\"\n": "a", "{}\r\n": map[string]any{}, `[1.50]`: []any{json.Number("1.50")}, `"a" "b"`: nil, `"a`: nil, "": nil} {
		if err := params.Decode([]byte(text), &value); (err == nil) != (want != nil) || err == nil && !reflect.DeepEqual(value, want) {
			t.Errorf("%q is %#v, %v, want %#v", text, value, err, want)
		}
		value = nil
	}
}

func TestEncodings(t *testing.T) {
	for _, c := range []struct {
		e     params.Encoding
		value any
		want  string
	}{
		{params.Plain, "a<b", "a<b"}, {params.Plain, map[string]any{"a": "<"}, `{"a":"<"}`}, {params.Base64, "aGk=\n", "hi"},
		{params.Hex, "6869", "hi"}, {params.Base64, "marker!", "!"}, {params.Hex, "marker", "!"}, {params.Hex, 5, "!"},
	} {
		got, err := c.e.File(c.value)
		if c.want == "!" {
			if err == nil || strings.Contains(err.Error(), "marker") {
				t.Errorf("%s of %v: %v", c.e, c.value, err)
			}
		} else if err != nil || string(got) != c.want {
			t.Errorf("%s of %v is %q, %v; want %q", c.e, c.value, got, err, c.want)
		}
	}
}

func TestAccess(t *testing.T) {
	for text, want := range map[string]string{
		"a: b":                                 "0 :",
		"filePermission: 0400, uid: 1000":      "400 1000:",
		"mode: 0440, user: 0, gid: 4294967294": "440 0:4294967294",
		"gid: 5":                               "0 :5",
		"uid: -1":                              `objects[0].uid: Invalid value: "-1": line 1: must be a whole number from 0 to 4294967294`,
		"gid: 4294967295":                      `objects[0].gid: Invalid value: "4294967295"`,
		"uid: nobody":                          `objects[0].uid: Invalid value: "nobody"`,
		"uid: [1]":                             `objects[0].uid: Invalid value: ""`,
		"uid: 1e3":                             `objects[0].uid: Invalid value: "1e3"`,
		"uid: 1, user: 1":                      `objects[0].user: Forbidden: says the same as uid`,
		"mode: 0400, filePermission: 0400":     `objects[0].mode: Forbidden: says the same as filePermission`,
	} {
		s, objects := list("- {" + text + "}")
		a := objects[0].Access()
		got := fmt.Sprintf("%o %s", a.Mode, a.Owner)
		if len(s.Errs) > 0 {
			got = errs(s)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s gives %s, want %s", text, got, want)
		}
	}
}

func FuzzObjects(f *testing.F) {
	for _, s := range []string{"- {a: b}", "- &x {<<: *x}", "- {m: {a: [1, {b: c}]}}", "- a: !!binary aGk=\n", "[{a: 1e999}]", "- {f: a/b, p: 0o7}", "- {<<: [{a: b}]}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, objects := list(text)
		for _, o := range objects {
			for _, field := range o.Fields {
				field.Text()
				field.FileName()
				field.Mode()
				if id := field.ID(); *id > 1<<32-2 {
					t.Errorf("the id %d", *id)
				}
				field.Bool()
				field.Number(0, 10)
				field.Encoding()
				field.Unknown([]string{"a"})
				if m := field.Map(); m != nil {
					if _, err := params.JSON(m); err != nil {
						t.Errorf("%q has no JSON form: %v", text, err)
					}
				}
			}
		}
		if len(objects) == 0 && len(s.Errs) == 0 {
			t.Errorf("%q is neither a list nor wrong", text)
		}
	})
}

// TestMerges merges lists and merges, as YAML defines.
func TestMerges(t *testing.T) {
	_, objects := list(`
- &a {text: a, number: 1}
- &b {<<: *a, text: b, file: f}
- {<<: [*a, *b], yes: true}
- {<<: [{text: first}, *b], number: 9}`)
	if len(objects) != 4 {
		t.Fatalf("%d objects", len(objects))
	}
	for i, want := range []map[string]string{
		{"text": "a", "number": "1"}, {"text": "b", "number": "1", "file": "f"},
		{"text": "a", "number": "1", "file": "f", "yes": "true"}, {"text": "first", "number": "9", "file": "f"},
	} {
		got := map[string]string{}
		for name, f := range byName(objects[i]) {
			got[name] = f.Text()
		}
		testkit.Equal(t, fmt.Sprintf("object %d", i), got, want)
	}
	for yaml, want := range map[string]string{
		"- {<<: word}": "must be a map or a list of maps, not text", "- {<<: [[word]]}": "not text", "- &a {<<: *a, text: x}": "is nested too deeply",
	} {
		s, _ := list(yaml)
		if !strings.Contains(errs(s), want) {
			t.Errorf("%s: %s", yaml, errs(s))
		}
	}
}

// maxAllocated bounds the total allocations for reading a class, however it is written.
const maxAllocated = 64 << 20

func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// readAll reads a list as a provider does, every field in every way.
func readAll(text string) (said int) {
	s, objects := list(text)
	for _, o := range objects {
		for _, f := range o.Fields {
			f.Unknown([]string{"objectName", "secretPath", "secretKey"})
			f.Text()
			if f.Name == "m" {
				f.Map()
			}
		}
	}
	for _, e := range s.Errs {
		said += len(e.Error())
	}
	for _, w := range s.Warnings {
		said += len(w)
	}
	return said
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func bombs() map[string]string {
	nested := "- m:\n    a0: &a0 {x: 1, y: 2}\n"
	for i := range 30 {
		nested += fmt.Sprintf("    a%d: &a%d {x: *a%d, y: *a%d}\n", i+1, i+1, i, i)
	}
	return map[string]string{
		"merges":          "- &a\n" + numbered("  k%d: v\n", 6000) + strings.Repeat("- <<: *a\n", 200),
		"merges in one":   "- &a\n" + numbered("  k%d: v\n", 6000) + "- x: 1\n" + strings.Repeat("  <<: *a\n", 900),
		"merge lists":     "- &a\n" + numbered("  k%d: v\n", 6000) + "- <<: [" + strings.Repeat("*a, ", 900) + "*a]\n",
		"merges in maps":  "- &a\n" + numbered("  k%d: v\n", 6000) + strings.Repeat("- m: {<<: *a}\n", 200),
		"aliases":         nested,
		"one large value": "- &a {m: &m {v: " + strings.Repeat("x", 400<<10) + "}}\n" + strings.Repeat("- m: *m\n", 900),
		"large key":       "- &a {? &k " + strings.Repeat("x", 400<<10) + " : 1}\n" + strings.Repeat("- {*k : 1}\n", 900),
		"deep":            "- m: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"unknown":         "- " + strings.TrimSpace(numbered("  secretPth%d: 1\n", 15_000)),
		"small nodes":     "[" + strings.Repeat("{},", 100_000) + "]",
		"comments":        strings.Repeat("- a: b #c\n", 40_000),
		"directives":      numbered("%%TAG !a%d! x\n", 30_000) + "--- []",
		"wide line break": "- a: 1\n" + strings.Repeat("-\u0085", 100_000),
		"unknown anchor":  "- *" + strings.Repeat("a", 300<<10),
	}
}

// TestBombs: no class takes much memory, or produces much output, whatever its shape.
func TestBombs(t *testing.T) {
	for name, text := range bombs() {
		t.Run(name, func(t *testing.T) {
			said := 0
			if bytes := allocated(func() { said = readAll(text) }); bytes > maxAllocated || said > 32<<10 {
				t.Errorf("%d KiB of YAML take %d MiB of memory, and bring mistakes and warnings of %d bytes", len(text)>>10, bytes>>20, said)
			}
		})
	}
}

// FuzzBombs looks for YAML that takes too much memory.
func FuzzBombs(f *testing.F) {
	for _, text := range bombs() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if bytes := allocated(func() { readAll(text) }); bytes > 2*maxAllocated {
			t.Errorf("%d bytes of YAML take %d MiB of memory", len(text), bytes>>20)
		}
	})
}
