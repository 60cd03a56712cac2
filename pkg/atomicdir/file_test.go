package atomicdir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestValidatePath(t *testing.T) {
	long := strings.Repeat("e", 255)
	deep := strings.Repeat(long+"/", 15) + long + "/" // 4096 bytes, less the last slash
	tests := []struct{ path, reason string }{
		{"a", ""},
		{"a/b/c", ""},
		{".hidden", ""},
		{"a..b", ""},
		{"a/..b", ""},
		{"a/...", ""},
		{"with space and ünïcode", ""},
		{`back\slash`, ""},
		{long, ""},
		{deep[:4095], ""},
		{strings.Repeat("a/", 15) + "aa", ""},
		{strings.Repeat("a/", 16) + "aa", "17 elements"},
		{"", "empty"},
		{"/", "absolute"},
		{"/etc/passwd", "absolute"},
		{"..", `".." element`},
		{"../x", `".." element`},
		{"a/../b", `".." element`},
		{"a/..", `".." element`},
		{".", `"." element`},
		{"./a", `"." element`},
		{"a/./b", `"." element`},
		{"a//b", "empty element"},
		{"a/", "empty element"},
		{"..data", "reserved"},
		{"..data/x", "reserved"},
		{"..data_tmp", "reserved"},
		{"..2026_01_02_15_04_05.1/x", "reserved"},
		{"...", "reserved"},
		{long + "e", "256 bytes"},
		{"a/" + long + "e/b", "256 bytes"},
		{strings.Repeat("a/", 2048) + "a", "4097 bytes"},
		{"a\x00b", "U+0000"},
		{"a\nb", "U+000A"},
		{"a\x1b[31m", "U+001B"},
		{"a\x7f", "U+007F"},
		{"a\u0085b", "U+0085"},
		{"a\xffb", "UTF-8"},
	}
	for _, tt := range tests {
		t.Run(quote(tt.path), func(t *testing.T) {
			err := ValidatePath(tt.path)
			if tt.reason == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			pathErr, ok := errors.AsType[*PathError](err)
			if !ok {
				t.Fatalf("error = %v, want a *PathError", err)
			}
			if pathErr.Path != tt.path || !strings.Contains(pathErr.Reason, tt.reason) {
				t.Fatalf("error = %#v, want the reason %q", pathErr, tt.reason)
			}
			if strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 1500 {
				t.Fatalf("error repeats a hostile path raw: %q", err.Error())
			}
		})
	}
}

func TestValidateFiles(t *testing.T) {
	tests := []struct {
		name  string
		files []File
		want  []string // parts of the error; none means accepted
	}{
		{"none", nil, nil},
		{"siblings", []File{file("a", ""), file("ab", ""), file("a.b", ""), file("b/a", "")}, nil},
		{"all permissions", []File{{Path: "a", Mode: 0o777}}, nil},
		{"duplicate", []File{file("a", ""), file("b", ""), file("a", "")}, []string{`"a"`, "files 0 and 2"}},
		{"file and directory", []File{file("a/b", ""), file("a", "")}, []string{`"a"`, "files 1", "files 0", `"a/b"`}},
		{"file and distant directory", []File{file("a", ""), file("a!", ""), file("a/b/c", "")}, []string{`"a"`, "files 0", "files 2"}},
		{"nested file and directory", []File{file("x/a", ""), file("x/a-b", ""), file("x/a/b", "")}, []string{`"x/a"`}},
		{"bad path", []File{file("a", ""), file("../b", "")}, []string{`"../b"`}},
		{"setuid", []File{{Path: "a", Mode: fs.ModeSetuid | 0o755}}, []string{`"a"`, "mode"}},
		{"setgid", []File{{Path: "a", Mode: fs.ModeSetgid | 0o755}}, []string{"mode"}},
		{"sticky", []File{{Path: "a", Mode: fs.ModeSticky | 0o755}}, []string{"mode"}},
		{"unix setuid", []File{{Path: "a", Mode: 0o4755}}, []string{"04755"}},
		{"directory", []File{{Path: "a", Mode: fs.ModeDir | 0o755}}, []string{"mode"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := ValidateFiles(tt.files)
			if len(tt.want) == 0 {
				testkit.Must(t, err)
				return
			}
			if _, ok := errors.AsType[*PathError](err); !ok {
				t.Fatalf("error = %v, want a *PathError", err)
			}
			testkit.Says(t, err, tt.want...)
		})
	}
}

func TestFileNeverPrintsContents(t *testing.T) {
	f := file("a", "s3cret-marker")
	f.Owner = owner(1000, -1)
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, f, &f, []File{f})
	}
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("m", "file", f, "files", []File{f})
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "file", f)
	b, err := json.Marshal([]File{f})
	testkit.Must(t, err)
	out.Write(b)
	for _, form := range []string{"s3cret-marker", "czNjcmV0LW1hcmtlcg", "115 51 99", "7333637265"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("contents are printed as %q in %s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), `"a" 0000 1000: 13 bytes`) {
		t.Errorf("nothing was printed: %s", out.String())
	}
}

// FuzzValidatePath checks the rule against one written in another way.
func FuzzValidatePath(f *testing.F) {
	for _, p := range []string{"", "a", "a/b", "..", "..a", "a//b", "./a", "/a", "a\x00", "a\xff", strings.Repeat("a", 256)} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		accepted := ValidatePath(p) == nil
		want := fs.ValidPath(p) && p != "." && path.Clean("/"+p) == "/"+p &&
			!strings.HasPrefix(p, "..") && len(p) <= 4096 && strings.Count(p, "/") < 16 && utf8.ValidString(p)
		for _, element := range strings.Split(p, "/") {
			want = want && len(element) <= 255
		}
		for _, r := range p {
			want = want && !unicode.Is(unicode.Cc, r)
		}
		if accepted != want {
			t.Fatalf("ValidatePath(%q) accepts: %v, want %v", p, accepted, want)
		}
	})
}
