package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestParseMountInfo(t *testing.T) {
	const table = `22 1 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /a/mount rw,nosuid,nodev,noexec,relatime shared:5 - tmpfs other rw
31 30 0:41 / /a/mount rw,nosuid,nodev,noexec,relatime - tmpfs mayfly rw,size=8k,nr_inodes=9
`
	got, err := parseMountInfo(table, "/a/mount")
	testkit.Must(t, err)
	testkit.Must(t, got.check("/a/mount"))
	for _, text := range []string{"", "garbage\n", table[:len(table)/3]} {
		if got, err := parseMountInfo(text, "/b"); err == nil {
			t.Errorf("%q gives %+v", text, got)
		}
	}
}

func TestCheckMount(t *testing.T) {
	good := mountFacts{"/m", "tmpfs", tmpfs.Source, "rw,nosuid,nodev,noexec,size=8k,nr_inodes=9"}
	testkit.Must(t, good.check("/m"))
	for name, change := range map[string]func(m *mountFacts){
		"type":    func(m *mountFacts) { m.fsType = "ext4" },
		"source":  func(m *mountFacts) { m.source = "tmpfs" },
		"options": func(m *mountFacts) { m.options = "rw,nosuid,nodev,size=8k,nr_inodes=9" },
		"limit":   func(m *mountFacts) { m.options = "rw,nosuid,nodev,noexec,sizes=8k,nr_inodes=9" },
	} {
		bad := good
		change(&bad)
		if bad.check("/m") == nil {
			t.Errorf("%s: %+v passes", name, bad)
		}
	}
}

func TestColour(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	testkit.Must(t, err)
	defer file.Close()
	if s := newScreen(file, func(string) string { return "" }); s.colour || s.paint(bold, "x") != "x" {
		t.Error("a file gets colours")
	}
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal to try: %v", err)
	}
	defer terminal.Close()
	for name, tc := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"plain": {nil, true}, "NO_COLOR": {map[string]string{"NO_COLOR": "1"}, false}, "dumb": {map[string]string{"TERM": "dumb"}, false},
	} {
		if s := newScreen(terminal, func(key string) string { return tc.env[key] }); s.colour != tc.want {
			t.Errorf("%s: colour is %t", name, s.colour)
		}
	}
}
