package tmpl_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
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
		{`{{ dotenv .user }} {{ dotenv "a b$c" }} {{ dotenv .password }}`, `app 'a b$c' "p'a\"s\$s\\:w#rd"`},
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
	out, err := render(`{{ fromJson .v | toYaml }}`, map[string]string{"v": text}, defaults())
	testkit.Must(t, err)
	var got any
	if err := yaml.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	again, _ := json.Marshal(got)
	if want := `{"a":{},"b":{"no":"x","y":[1,[2,{"z":null}],[]]},"c d":0.5}`; string(again) != want {
		t.Errorf("toYaml made\n%s\nwhich is %s", out, again)
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

// render compiles and renders a text.
func render(text string, values map[string]string, l *tmpl.Limits) ([]byte, error) {
	t, bad := tmpl.Compile(text)
	if bad != nil {
		return nil, bad
	}
	return t.Render(values, l)
}
