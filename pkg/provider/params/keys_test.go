package params_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestTakes(t *testing.T) {
	for text, want := range map[string]string{
		"name: f":                                   "[{f  false []}]",
		"name: f, secretKey: k":                     "[{f k false []}]",
		"name: f, secretKey: ''":                    "[{f  false []}]",
		`secretKeys: "*"`:                           "[{  true []}]",
		`name: d, secretKeys: "*"`:                  "[{d  true []}]",
		`secretKeys: [a, b.c]`:                      "[{a a false []} {b.c b.c false []}]",
		`name: d, secretKeys: {a: x, b.c: y/z}`:     "[{d/x a false []} {d/y/z b.c false []}]",
		`secretKeys: {"*": "*", a: x}`:              "[{x a false []} {  true [a]}]",
		`secretKeys: {"*": "*", 'a\.b': x}`:         `[{x a\.b false []} {  true [a\.b a.b]}]`,
		`secretKeys: ["*", a]`:                      "[{a a false []} {  true [a]}]",
		`secretKeys: {0: x}`:                        "[{x 0 false []}]",
		`secretKeys: "a"`:                           `secretKeys: Invalid value: "a": line 1: must be "*" for all keys, a list of keys, or a map`,
		`secretKeys: []`:                            `it has none`,
		`secretKeys: {a: }`:                         `the key "a": the file name "" cannot be used: it is empty`,
		`secretKeys: {a: ../b}`:                     `the key "a": the file name "../b" cannot be used`,
		`secretKeys: [..data]`:                      `the key "..data": the file name "..data" cannot be used`,
		`secretKeys: {a: [b]}`:                      `the key "a" must have a file name, not a list`,
		`secretKeys: [{a: b}]`:                      `must be a list of keys, and has a map`,
		`secretKeys: {"*": all}`:                    `write "*": "*"`,
		`secretKeys: {"": x}`:                       `a key is empty`,
		`secretKeys: {a: b, a: c}`:                  `the key "a" is given twice`,
		`name: f, secretKey: k, secretKeys: "*"`:    "secretKeys: Forbidden: does not go with secretKey",
		`name: d, secretKeys: {` + long(1020) + `}`: "Too many: 1020: must have at most 1000 items",
		`secretKeys: {a: x, b: x}`:                  `secretKeys: Duplicate value: "x": objects[0] has this name too`,
		`name: ` + strings.Repeat("d/", 15) + `d, secretKeys: {a: x/y}`: "cannot be used: it ",
	} {
		set, objects := list("- {" + text + "}")
		var got string
		for i := range objects {
			name := ""
			if f, ok := byName(objects[i])["name"]; ok {
				name = f.FileName()
			}
			takes := objects[i].Takes(name)
			set.CheckFiles(objects[i].Named("name", takes))
			got = fmt.Sprint(takes)
		}
		if len(set.Errs) > 0 {
			got = errs(set)
		}
		if len(set.Errs) == 0 && got != want || len(set.Errs) > 0 && !strings.Contains(got, want) {
			t.Errorf("%.80s:\n got %.300s\nwant %s", text, got, want)
		}
	}
}

func long(keys int) string {
	var b strings.Builder
	for i := range keys {
		fmt.Fprintf(&b, "k%d: f%d, ", i, i)
	}
	return b.String()
}

func TestKeysOfSecret(t *testing.T) {
	values, err := params.Values([]byte(`{"a":1,"b":"x","a":{"c":2}}`))
	if err != nil || len(values) != 2 || string(values["a"]) != `{"c":2}` || string(values["b"]) != `"x"` {
		t.Errorf("%s, %v", values, err)
	}
	for _, raw := range []string{`"text"`, `[1]`, `null`, ""} {
		if values, err := params.Values([]byte(raw)); err != nil || len(values) != 0 {
			t.Errorf("%s has the keys %s, %v", raw, values, err)
		}
	}
	many := map[string]int{}
	for i := range 1001 {
		many[fmt.Sprint(i)] = i
	}
	raw := testkit.Value(json.Marshal(many))(t)
	testkit.Error(params.Values(raw))(t, "more than 1000 keys")
}

// FuzzKeyPath: every nested value has a path, whatever its keys are, and a path
// that is written for it leads to it.
func FuzzKeyPath(f *testing.F) {
	for _, seed := range [][3]string{
		{"a", "b", "c"}, {"a.b", "", `\`}, {`a\.b`, `\\`, "."}, {"", "", ""}, {"0", "-1", "x.y.z"}, {"\x00", "ü", `"`},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	escape := strings.NewReplacer(`\`, `\\`, ".", `\.`)
	valid := func(s string) string { return string([]rune(s)) } // as JSON has it
	f.Fuzz(func(t *testing.T, a, b, c string) {
		raw := testkit.Value(json.Marshal(map[string]any{a: map[string]any{b: map[string]any{c: "value"}}}))(t)
		path := strings.Join([]string{escape.Replace(valid(a)), escape.Replace(valid(b)), escape.Replace(valid(c))}, ".")
		// A key that is called as the path is found first, and ends it here.
		if got := params.Pick(raw, path); string(got) != `"value"` && path != valid(a) {
			t.Errorf("%q in %s is %s", path, raw, got)
		}
		for _, other := range []string{a, b, c, a + "." + b, a + "." + b + "." + c} { // anything else ends too
			_ = params.Pick(raw, other)
		}
	})
}

// FuzzKeys: whatever a class writes for secretKeys, what gets through are names
// of files.
func FuzzKeys(f *testing.F) {
	for _, seed := range []string{`"*"`, "[a, b]", "{a: b}", `{"*": "*", c: d/e}`, "&x [*x]", "{<<: {a: b}}", "{a: {b: c}}", "[..data]", "~"} {
		f.Add(seed, "dir")
	}
	f.Fuzz(func(t *testing.T, keys, dir string) {
		if dir != "" && atomicdir.ValidatePath(dir) != nil {
			t.Skip()
		}
		set, objects := list("- secretKeys: " + keys)
		for i := range objects {
			takes := objects[i].Takes(dir)
			set.CheckFiles(objects[i].Named("name", takes))
			if len(set.Errs) > 0 || !objects[i].HasKeys() {
				continue
			}
			for _, take := range takes {
				if err := atomicdir.ValidatePath(take.File); err != nil && (!take.Every || take.File != dir) {
					t.Errorf("%q gives the file %q: %v", keys, take.File, err)
				}
			}
		}
	})
}
