package atomicdir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestClosed(t *testing.T) {
	d := open(t, t.TempDir())
	testkit.Must(t, d.Close())
	testkit.Must(t, d.Close())
	_, writeErr := d.Write(nil, Options{})
	_, completeErr := d.Complete()
	for _, err := range []error{writeErr, completeErr, d.Repair()} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("error = %v, want fs.ErrClosed", err)
		}
	}
}

func TestComplete(t *testing.T) {
	at := func(name string) func(string) string {
		return func(path string) string { return filepath.Join(path, name) }
	}
	remove := func(name string) func(string) error {
		return func(path string) error { return os.Remove(at(name)(path)) }
	}
	relink := func(name, target string) func(string) error {
		return func(path string) error {
			return errors.Join(os.RemoveAll(at(name)(path)), os.Symlink(target, at(name)(path)))
		}
	}
	tests := []struct {
		name   string
		damage func(path string) error
		want   bool
	}{
		{"whole", func(string) error { return nil }, true},
		{"foreign file beside it", func(p string) error { return os.WriteFile(p+"/other", nil, 0o644) }, true},
		{"no ..data", remove("..data"), false},
		// A crash right after the swap leaves links as they are before step 9.
		{"no link", remove("d"), true},
		{"link to elsewhere", relink("a", "/etc/passwd"), true},
		{"link to another name", relink("a", "..data/d"), true},
		{"file in place of a link", func(p string) error {
			return errors.Join(os.Remove(p+"/a"), os.WriteFile(p+"/a", nil, 0o644))
		}, true},
		{"..data to outside", relink("..data", "/etc"), false},
		{"..data to a directory that is no payload", func(p string) error {
			return errors.Join(os.Mkdir(p+"/x", 0o755), relink("..data", "x")(p))
		}, false},
		{"..data to nothing", relink("..data", "..2026_01_01_01_01_01.1"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := newVolume(t)
			d := open(t, path)
			if got, err := d.Complete(); got || err != nil {
				t.Fatalf("empty volume: %v, %v", got, err)
			}
			mustWrite(t, d, Options{}, file("a", "1"), file("d/b", "1"))
			testkit.Must(t, tt.damage(path))
			if got, err := d.Complete(); got != tt.want || err != nil {
				t.Fatalf("Complete = %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestIsPayloadName(t *testing.T) {
	for name, want := range map[string]bool{
		payloadName(fixedTime(), 0):               true,
		payloadName(fixedTime(), 99):              true,
		payloadName(time.Unix(0, 0), 0):           true,
		"..2024_05_06_07_08_09.1":                 true,
		"..2024_05_06_07_08_09.":                  false,
		"..2024_05_06_07_08_099.1":                false,
		"..2024_05_06_07_08_0.1":                  false,
		"..2024_05_06_07_08_09":                   false,
		"..2024_05_06_07_08_09.1/x":               false,
		"..2024_05_06_07_08_09.1/..":              false,
		"..2024-05-06-07-08-09.1":                 false,
		"..2024_05_06_07_08_0x.1":                 false,
		"2024_05_06_07_08_09.1":                   false,
		".2024_05_06_07_08_09.1":                  false,
		"..data":                                  false,
		"":                                        false,
		"..":                                      false,
		"..2024_05_06_07_08_09.1x":                false,
		"..2024_05_06_07_08_09.1.2":               false,
		"..2024_05_06_07_08_09.\u0661":            false,
		"..2024_05_06_07_08_09." + long(250, '1'): false,
	} {
		testkit.Equal(t, fmt.Sprintf("isPayloadName(%q)", name), isPayloadName(name), want)
	}
	if a, b := payloadName(fixedTime(), 0), payloadName(fixedTime(), 1); a == b {
		t.Errorf("two attempts give one name, %q", a)
	}
}

func long(n int, b byte) string { return strings.Repeat(string(b), n) }

// Write repairs links without a swap, and keeps foreign entries.
func TestLinksAreRepaired(t *testing.T) {
	damages := map[string]func(path string) error{
		"missing":         func(p string) error { return os.Remove(p + "/a") },
		"all missing":     func(p string) error { return errors.Join(os.Remove(p+"/a"), os.Remove(p+"/d")) },
		"to outside":      func(p string) error { return errors.Join(os.Remove(p+"/a"), os.Symlink("/etc/passwd", p+"/a")) },
		"to another name": func(p string) error { return errors.Join(os.Remove(p+"/a"), os.Symlink("..data/d", p+"/a")) },
		"stray":           func(p string) error { return os.Symlink("..data/gone", p+"/gone") },
		"stray of a long target": func(p string) error {
			return os.Symlink("..data/"+strings.Repeat("x/", 400), p+"/gone")
		},
		"stray to a live file": func(p string) error { return os.Symlink("..data/a", p+"/alias") },
	}
	files := []File{file("a", "1"), file("d/b", "1")}
	repairs := map[string]func(t *testing.T, d *Dir){
		"write": func(t *testing.T, d *Dir) {
			if mustWrite(t, d, Options{}, files...) {
				t.Error("the payload was swapped")
			}
		},
		"repair": func(t *testing.T, d *Dir) { testkit.Must(t, d.Repair()) },
	}
	for name, damage := range damages {
		for by, repair := range repairs {
			t.Run(by+"/"+name, func(t *testing.T) {
				path := newVolume(t)
				d := open(t, path)
				testkit.Must(t, os.WriteFile(path+"/foreign", nil, 0o600))
				testkit.Must(t, os.Mkdir(path+"/..foreign", 0o700))
				testkit.Must(t, os.Symlink("..foreign", path+"/link"))
				mustWrite(t, d, Options{}, files...)
				before := stat(t, path, "..data", "a")
				testkit.Must(t, damage(path))
				repair(t, d)
				if after := stat(t, path, "..data", "a"); after != before {
					// Reading may move the access time.
					after.Atim = before.Atim
					testkit.Equal(t, "the payload was touched", after, before)
				}
				checkExact(t, path, treeOf(files...), "foreign", "..foreign", "link")
			})
		}
	}
}

// A Repair does nothing in a volume without a payload, keeps the replaced payload for its last
// readers, and undoes what it cannot finish.
func TestRepair(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	testkit.Must(t, d.Repair())
	testkit.Empty(t, "came of nothing", list(t, path))
	mustWrite(t, d, Options{}, file("a", "1"))
	replaced := live(t, path)
	mustWrite(t, d, Options{}, file("a", "2"), file("b", "2"))
	testkit.Must(t, os.Remove(path+"/b"))
	testkit.Must(t, d.Repair())
	if _, err := os.Stat(replaced); err != nil {
		t.Errorf("the replaced payload: %v", err)
	}
	sweep(t, d)
	checkExact(t, path, treeOf(file("a", "2"), file("b", "2")))
	testkit.Must(t, errors.Join(os.Remove(path+"/b"), os.Mkdir(path+"/b", 0o700)))
	testkit.Is(t, d.Repair(), ErrForeign) // a link's name is taken
	testkit.Must(t, os.Remove(path+"/b"))
	d.sys.hook = func(op, name string) error {
		if op == "symlink" {
			return unix.ENOSPC
		}
		return nil
	}
	testkit.Is(t, d.Repair(), ErrNoSpace) // no space
	if _, err := os.Lstat(path + "/..links_tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("..links_tmp is left: %v", err)
	}
}

// An open directory stays the same when its path leads elsewhere.
func TestOpen(t *testing.T) {
	path := filepath.Join(newVolume(t), "mount")
	testkit.Must(t, os.Mkdir(path, 0o700))
	f := testkit.Value(os.Open(path))(t)
	testkit.Must(t, errors.Join(os.Rename(path, path+"-moved"), os.Mkdir(path, 0o700)))
	d := testkit.Value(Open(f))(t)
	defer func() { testkit.Must(t, d.Close()) }()
	testkit.Must(t, f.Close())
	mustWrite(t, d, Options{}, file("a", "1"))
	checkExact(t, path+"-moved", treeOf(file("a", "1")))
	testkit.Empty(t, "were written to the path", list(t, path))
	if _, err := Open(f); err == nil {
		t.Error("a closed file was taken")
	}
}

// If a foreign entry has a wanted name, Write fails before it changes anything.
func TestWriteForeignNames(t *testing.T) {
	plants := map[string]func(path string) error{
		"file":      func(p string) error { return os.WriteFile(p+"/b", []byte("x"), 0o600) },
		"directory": func(p string) error { return os.Mkdir(p+"/b", 0o700) },
		"..data as file": func(p string) error {
			return errors.Join(os.Remove(p+"/..data"), os.WriteFile(p+"/..data", nil, 0o600))
		},
		"..data as directory": func(p string) error { return errors.Join(os.Remove(p+"/..data"), os.Mkdir(p+"/..data", 0o700)) },
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			path := newVolume(t)
			d := open(t, path)
			mustWrite(t, d, Options{}, file("a", "1"))
			testkit.Must(t, plant(path))
			testkit.Must(t, os.Symlink("x", path+"/..data_tmp"))
			before := stamps(t, path)
			if _, err := d.Write([]File{file("a", "2"), file("b", "2")}, Options{}); !errors.Is(err, ErrForeign) {
				t.Fatalf("error = %v, want ErrForeign", err)
			}
			testkit.Equal(t, "the failed Write touched the volume", stamps(t, path), before)
		})
	}
}

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
	b := testkit.Value(json.Marshal([]File{f}))(t)
	out.Write(b)
	for _, form := range []string{"s3cret-marker", "czNjcmV0LW1hcmtlcg", "115 51 99", "7333637265"} {
		testkit.Lacks(t, out.String(), form)
	}
	testkit.Has(t, out.String(), `"a" 0000 1000: 13 bytes`)
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
