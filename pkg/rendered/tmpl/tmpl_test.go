package tmpl_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/rendered/tmpl"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const marker = "s3cr3t-marker"

func defaults() *tmpl.Limits {
	l := tmpl.DefaultLimits()
	return &l
}

func values() map[string]string {
	return map[string]string{
		"user": "app", "password": `p'a"s$s\:w#rd`, "db-password": "dash", "tls/key.pem": "line1\nline2\n", "empty": "",
		"json":   `{"user":"u","port":5432,"big":12345678901234567890,"ratio":0.5,"on":true,"none":null,"list":["a","b"],"deep":{"k":{"x":"y"}}}`,
		"binary": "\xff\x00", "marker": marker,
	}
}

func TestRender(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{{ .user }}:{{ index . "db-password" }}:{{ secret "tls/key.pem" | trim }}`, "app:dash:line1\nline2"},
		{`{{ with fromJson .json }}{{ .user }} {{ .port }} {{ .big }} {{ .ratio }} {{ .on }} {{ index .list 1 }} {{ .deep.k.x }} {{ secret "user" }}{{ end }}`, "u 5432 12345678901234567890 0.5 true b y app"},
		{`{{ range $k, $v := (fromJson .json).deep }}{{ $k }}={{ $v.x }}{{ end }}`, "k=y"},
		{`{{ range $i := 3 }}{{ $i }}{{ end }}{{ range until }}{{ end }}`, ""},
		{`{{ define "a" }}[{{ . }}]{{ end }}{{ template "a" .user }}{{ block "b" . }}{{ .user }}{{ end }}`, "[app]app"},
		{`{{ if hasKey . "gone" }}no{{ else }}{{ get . "gone" | default "instead" }}{{ end }}`, "instead"},
		{`{{ if and (eq .user "app" "x") (ne .user "y") (lt 1 2) (ge "b" "a") }}yes{{ end }}`, "yes"},
		{`{{ ternary "a" "b" (eq (atoi "5") 5) }}{{ coalesce .empty .user }}{{ empty .empty }}{{ add 1 "2" }}{{ sub 5 2 }}`, "aapptrue33"},
		{`{{ replace "p" "q" .user }}{{ trimPrefix "a" .user }}{{ trimSuffix "p" .user }}{{ trimAll "ap" .user }}{{ upper .user | lower }}{{ contains "pp" .user }}{{ hasPrefix "ap" .user }}{{ hasSuffix "p" .user }}`, "aqqppapapptruetruetrue"},
		{`{{ splitList "," "a,b,c" | join "-" }}{{ splitList "," "a,b" | first }}{{ splitList "," "a,b" | last }}{{ keys (fromJson .json).deep | join "" }}{{ len .user }}`, "a-b-cabk3"},
		{`{{ repeat 3 "ab" }}{{ trunc 2 .user }}{{ trunc -2 .user }}{{ b64enc .user | b64dec }}{{ indent 2 "a\nb" }}{{ nindent 1 "a" }}`, "abababappp" + "app  a\n  b\n a"},
		{`{{ sha256sum "a" | trunc 8 }} {{ printf "%s-%05d-%q" .user 7 "x" }}{{ print "a" 1 true }}{{ println "a" 1 }}`, `ca978112 app-00007-"x"a1true` + "a 1\n"},
		{`{{ urlUserinfo "p@s/s:w" }} {{ urlquery "a&b" }} {{ urlPath "a/b" }} {{ html "<" }} {{ js "'" }}`, `p%40s%2Fs%3Aw a%26b a%2Fb &lt; \'`},
		{`{{ pgpass .password }}|{{ ini .password }}|{{ shellQuote .password }}|{{ shellQuote .user }}`, `p'a"s$s\\\:w#rd|"p'a\"s$s\\:w#rd"|'p'\''a"s$s\:w#rd'|app`},
		{`{{ properties " a=ü😀\n" }}`, `\ a\=\u00FC\uD83D\uDE00\n`},
		{`{{ dotenv .user }} {{ dotenv "a b$c" }} {{ dotenv "it's\n#1" }}`, `app 'a b$c' "it's\n#1"`},
		{`{{ toToml .password }} {{ toToml (fromJson "{\"a\":[1,true]}") }}`, `"p'a\"s$s\\:w#rd" { "a" = [1, true] }`},
	} {
		if strings.Contains(c.text, "until") {
			if _, err := tmpl.Compile(c.text); err == nil || !strings.Contains(err.Error(), `line 1 of the text: function "until" not defined`) {
				t.Errorf("%s: %v", c.text, err)
			}
			continue
		}
		got, err := render(c.text, values(), defaults())
		if err != nil || string(got) != c.want {
			t.Errorf("%s\n got %q, %v\nwant %q", c.text, got, err, c.want)
		}
	}
}

// What is written for a format must be read as what it was, by a reader of the
// format that is not ours.
func TestRoundTrips(t *testing.T) {
	for _, v := range []string{"", " x ", "a\nb\r\n", `\'"$` + "`!", "ü\u2028\u007f\ufeff😀", "# no: comment", "yes", "{}", "\x01\t"} {
		in := map[string]string{"v": v}
		render := func(text string) string {
			out, err := render(text, in, defaults())
			if err != nil {
				t.Fatalf("%s of %q: %v", text, v, err)
			}
			return string(out)
		}
		var fromJSON, fromYAML struct{ K string }
		if err := json.Unmarshal([]byte(render(`{"K":{{ toJson .v }}}`)), &fromJSON); err != nil || fromJSON.K != v {
			t.Errorf("toJson of %q is read as %q, %v", v, fromJSON.K, err)
		}
		if err := yaml.Unmarshal([]byte(render(`k: {{ toYaml .v }}`)), &fromYAML); err != nil || fromYAML.K != v {
			t.Errorf("toYaml of %q is read as %q, %v", v, fromYAML.K, err)
		}
		out, err := exec.Command("sh", "-c", "printf '%s.' "+render(`{{ shellQuote .v }}`)).Output()
		if err != nil || string(out) != v+"." {
			t.Errorf("shellQuote of %q is read as %q, %v", v, out, err)
		}
	}
	text := `{"b":{"y":[1,[2,{"z":null}],[]],"no":"x"},"a":{},"c d":0.50}`
	out := testkit.Value(render(`{{ fromJson .v | toYaml }}`, map[string]string{"v": text}, defaults()))(t)
	var got any
	if err := yaml.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	again, _ := json.Marshal(got)
	if want := `{"a":{},"b":{"no":"x","y":[1,[2,{"z":null}],[]]},"c d":0.5}`; string(again) != want {
		t.Errorf("toYaml made\n%s\nwhich is %s", out, again)
	}
}

// Other programs read what is written for their formats, where the machine has them. A value that a
// format cannot hold is refused, and never written as another one.
func TestRoundTripsElsewhere(t *testing.T) {
	dir := t.TempDir()
	program, file := filepath.Join(dir, "P.java"), filepath.Join(dir, "file")
	testkit.Must(t, os.WriteFile(program, []byte(`class P { public static void main(String[] a) throws Exception {
	var p = new java.util.Properties();
	p.load(java.nio.file.Files.newInputStream(java.nio.file.Path.of(a[0])));
	for (int i = 0; p.containsKey("v" + i); i++) System.out.write((p.getProperty("v" + i) + "\0").getBytes("UTF-8"));
	System.out.flush();
} }`), 0o600))
	values := []string{"plain", " x ", `a"b$c\d#e`, "it's", "two\nlines\n", "ü😀", "# no: comment", "a=b;c", "\t", `it's $5`, `trailing\`, `x\\y`, "a\r\nb"}
	for _, c := range []struct {
		head, line string // # is the number of the value
		least      int    // how many of the values the format must hold
		needs      string // the program that must be there; the tool exits with 77 if it is too old
		tool       []string
	}{
		{"", "v#={{ dotenv .v }}\n", 9, "node", []string{"node", "-e", `const parse = require("node:util").parseEnv ?? process.exit(77); for (const v of Object.values(parse(require("fs").readFileSync(process.argv[1], "utf8")))) process.stdout.write(v + "\0")`}},
		{"", "v# = {{ toToml .v }}\n", 13, "python3", []string{"python3", "-c", `import sys; sys.version_info < (3, 11) and sys.exit(77); import tomllib; [sys.stdout.buffer.write((v + "\0").encode()) for v in tomllib.load(open(sys.argv[1], "rb")).values()]`}},
		{"[s]\n", "v = {{ ini .v }}\n", 11, "git", []string{"sh", "-c", `exec git config --null --get-all --file "$0" s.v`}},
		{"", "v#={{ properties .v }}\n", 13, "javac", []string{"java", program}},
	} {
		if _, err := exec.LookPath(c.needs); err != nil {
			t.Logf("%s is not on this machine", c.needs)
			continue
		}
		text, want := c.head, []string{}
		for _, v := range values {
			if out, err := render(strings.ReplaceAll(c.line, "#", strconv.Itoa(len(want))), map[string]string{"v": v}, defaults()); err == nil {
				text, want = text+string(out), append(want, v)
			}
		}
		testkit.Must(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := exec.CommandContext(t.Context(), c.tool[0], append(c.tool[1:], file)...).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 77 {
			t.Logf("%s is too old", c.needs)
			continue
		}
		if read := strings.Split(string(got), "\x00"); err != nil || !slices.Equal(read[:len(read)-1], want) || len(want) < c.least {
			t.Errorf("%s reads\n%s\nas %q, %v; want %d values or more, and %q", c.tool[0], text, read, err, c.least, want)
		}
	}
}

func TestErrorsNameThePlaceAndNoValue(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a\n{{ .passwrod }}", `line 2, column 3 of the text: there is no "passwrod"; did you mean password?`},
		{"{{ secret \"usr\" }}", `line 1, column 3 of the text: secret: there is no "usr"; did you mean user?`},
		{"\n{{ atoi .marker }}", "line 2, column 3 of the text: atoi: the value is no whole number"},
		{"{{ fromJson .marker }}", "fromJson: the text is not JSON"},
		{"{{ b64dec .marker }}", "b64dec: the text is not base64"},
		{"{{ range .marker }}{{ end }}", "range needs a list, a map or a whole number"},
		{"{{ fail .marker }}", "fail: the template refuses"},
		{"{{ .marker.x }}", "can't evaluate field x in type"},
		{"{{ toJson .binary }}", "not valid UTF-8"},
		{`{{ pgpass "a\nb" }}`, "line break"},
		{`{{ dotenv .password }}`, "readers of .env files differ"},
		{`{{ printf "%d" .marker }}`, "does not fit"},
		{`{{ slice .marker (atoi "99") }}`, "cannot be run"},
		{`{{ index (splitList "," .marker) 5 }}`, "fewer elements"},
		{`{{ eq .marker 1 }}`, "can be compared"},
		{`{{ upper . }}`, "a map: take one of its keys"},
		{`{{ call .marker }}`, "call"},
		{`{{ if .user }}`, "unexpected EOF"},
		{"x\n{{ template \"none\" }}", "line 2 of the text: there is no template \"none\""},
		{`{{ define "a" }}{{ template "b" }}{{ end }}{{ define "b" }}{{ if 1 }}{{ template "a" }}{{ end }}{{ end }}{{ template "a" }}`, "calls itself"},
		{" ", "is empty"},
		{`{{ define "a" }}x{{ end }}`, "nothing to write"},
	} {
		_, err := render(c.text, values(), defaults())
		var e *tmpl.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), marker) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}

// Each would run for hours, or take gigabytes.
func bombs() []string {
	return []string{
		`{{ range 1000000000000 }}{{ end }}`,
		`{{ range 1000000 }}{{ range 1000000 }}{{ range 1000000 }}{{ end }}{{ end }}{{ end }}`,
		`{{ range 100000000 }}` + strings.Repeat(`{{ if eq $.big $.big2 }}{{ end }}`, 500) + `{{ end }}`,
		`{{ $x := "aaaaaaaaaaaaaaaa" }}` + strings.Repeat(`{{ $x = printf "%s%s" $x $x }}`, 40),
		`{{ $x := "aaaaaaaaaaaaaaaa" }}` + strings.Repeat(`{{ $x = print $x $x }}`, 40),
		`{{ $x := "<" }}` + strings.Repeat(`{{ $x = html $x }}{{ $x = replace "" "&&&&" $x }}`, 40),
		`{{ range 10000000 }}{{ $.big }}{{ end }}`,
		`{{ repeat 1000000000000 .big }}`,
		`{{ repeat 9223372036854775807 .big }}`,
		`{{ printf (repeat 1000000 "%999d") 1 }}`,
		`{{ printf (repeat 1000000 "%[1]s") .big }}`,
		`{{ printf "%1000000000d" 1 }}`,
		`{{ indent 1000 (repeat 100000 "\n") }}`,
		`{{ range 1000000 }}{{ $x := splitList "" $.big }}{{ end }}`,
		`{{ range 1000000 }}{{ $x := fromJson $.list }}{{ end }}`,
		`{{ $d := fromJson .list }}{{ range 1000000 }}{{ $x := toYaml $d }}{{ end }}`,
		`{{ range 1000000 }}{{ $x := trimAll $.big $.big2 }}{{ end }}`,
		`{{ range 1000000 }}{{ $x := index $ "big" }}{{ $y := sha256sum $x }}{{ end }}`,
		`{{ range 1000000 }}{{ . | toString | js | urlquery | b64enc | b64enc | b64enc }}{{ end }}`,
		doubling(40),
	}
}

// doubling has templates each of which calls the next twice.
func doubling(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{{ define "t%d" }}{{ template "t%d" . }}{{ template "t%d" . }}{{ end }}`, i, i+1, i+1)
	}
	fmt.Fprintf(&text, `{{ define "t%d" }}{{ end }}{{ template "t0" . }}`, n)
	return text.String()
}

// The bounds are counted and not timed. A bomb that they did not stop would run
// into the test's own time.
func TestBombsEnd(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	in := map[string]string{"big": big, "big2": big + "y", "list": "[" + strings.Repeat("0,", 50_000) + "0]"}
	for _, text := range bombs() {
		l, reserved := tmpl.DefaultLimits(), int64(0)
		most := l.Bytes + l.Output + 1<<20
		l.Reserve = func(n int64) error { reserved = n; return nil }
		out, err := render(text, in, &l)
		if err == nil {
			t.Errorf("%.80s made %d bytes", text, len(out))
		}
		if reserved > most {
			t.Errorf("%.80s reserved %d bytes", text, reserved)
		}
	}
}

func TestParserIsBounded(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("x", tmpl.MaxText+1):                                        "bytes long",
		strings.Repeat("{{.}}", 2001):                                              "actions",
		"\n{{ " + strings.Repeat("(", 101) + "1" + strings.Repeat(")", 101) + "}}": "line 2 of the text: the action has more than 100 parentheses",
	} {
		if _, err := tmpl.Compile(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestReserveRefuses(t *testing.T) {
	full := errors.New("the node is full")
	l := tmpl.DefaultLimits()
	l.Reserve = func(int64) error { return full }
	if _, err := render(`{{ repeat 100 "x" }}`, nil, &l); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}

func FuzzRender(f *testing.F) {
	for _, text := range bombs() {
		f.Add(text, marker)
	}
	f.Add(`{{ .v | toYaml }}{{ fromJson .v | toToml }}`, `{"a":[1,{"b":null}]}`)
	f.Fuzz(func(t *testing.T, text, v string) {
		l := tmpl.Limits{Steps: 1 << 14, Bytes: 1 << 16, Output: 1 << 14}
		secret := marker + v + marker
		out, err := render(text, map[string]string{"v": secret}, &l)
		if int64(len(out)) > 1<<14 {
			t.Errorf("%d bytes", len(out))
		}
		if err != nil && !strings.Contains(text, marker) && strings.Contains(err.Error(), marker) {
			t.Errorf("the error quotes a value: %v", err)
		}
	})
}

func render(text string, values map[string]string, l *tmpl.Limits) ([]byte, error) {
	t, bad := tmpl.Compile(text)
	if bad != nil {
		return nil, bad
	}
	return t.Render(values, l)
}
