package envfile_test

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/rendered/envfile"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestLine(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	for value, want := range map[string]string{
		"plain": "", `a"b$c\n#` + "`": "", "two\nlines\n": "", "\rx\r": "", "ü": "", long[:64<<10-1-len("NAME=''")]: "",
		"": "is empty", "it's": "single quote", "a\x00": "NUL", "a\r\nb": "carriage return", "\xff": "UTF-8", long[:64<<10-len("NAME=''")]: "65535",
	} {
		line, err := envfile.Line("NAME", []byte(value))
		if want != "" {
			testkit.Says(t, err, want)
			continue
		}
		if err != nil {
			t.Errorf("%.20q: %v", value, err)
		}
		if got, err := read(line); err != nil || got["NAME"] != value {
			t.Errorf("%.20q is read as %.20q, %v", value, got["NAME"], err)
		}
	}
	for _, name := range []string{"", "A B", "1A", "A=B", strings.Repeat("A", 129)} {
		if envfile.CheckName(name) == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}

// read reads by the rules of kubelet's ParseEnv (pkg/kubelet/util/env of
// Kubernetes 1.37): lines as bufio.Scanner gives them, which ends at 64 KiB and
// takes a carriage return off.
func read(file []byte) (map[string]string, error) {
	found, name, value := map[string]string{}, "", ""
	scan := bufio.NewScanner(bytes.NewReader(file))
	for scan.Scan() {
		rest := scan.Text()
		if name == "" {
			rest = strings.TrimLeft(rest, " \t")
			if rest == "" || rest[0] == '#' {
				continue
			}
			before, after, ok := strings.Cut(rest, "='")
			if !ok {
				return nil, errors.New("no quoted value")
			}
			name, value, rest = before, "", after
		}
		inner, after, ended := strings.Cut(rest, "'")
		value += inner
		switch {
		case !ended:
			value += "\n"
		case strings.TrimLeft(after, " \t") != "":
			return nil, errors.New("something after the quote")
		default:
			found[name], name = value, ""
		}
	}
	if name != "" {
		return nil, errors.New("unclosed quote")
	}
	return found, scan.Err()
}

func FuzzLine(f *testing.F) {
	f.Add([]byte("a\nb\r"), []byte("c"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		one, errA := envfile.Line("A", a)
		two, errB := envfile.Line("B", b)
		if errA != nil || errB != nil {
			return
		}
		got, err := read(append(one, two...))
		if err != nil || got["A"] != string(a) || got["B"] != string(b) {
			t.Errorf("%q and %q are read as %q, %v", a, b, got, err)
		}
	})
}
