package tmpfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnescape(t *testing.T) {
	tests := map[string]string{
		``: ``, `plain`: `plain`, `a\040b`: "a b", `\011\012\134\043`: "\t\n\\#", `\`: `\`, `\04`: `\04`,
		`\999`: `\999`, `\777`: `\777`, `\+12`: `\+12`, `\134040`: `\040`, `\` + `\040`: `\ `, `\377`: "\xff",
	}
	for in, want := range tests {
		if got := unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestMountinfoLookup(t *testing.T) {
	table := mountinfo(strings.Join([]string{
		`1 0 0:1 / / rw - ext4 /dev/root rw`,
		`21 1 0:2 /sub\040dir /a\012b ro,nosuid shared:7 master:3 - tmpfs may\040fly ro,size=4k,context="u:r:t:s0:c1,c2"`,
		`211 21 0:3 / /x rw - tmpfs  rw`, // no source at all
		`30 1 garbage`,
		`32 1 0:2 / /x - tmpfs x rw`,
		`33 1 0:2 / /x rw - tmpfs x`,
		`40 1 0:5 / /last rw - fuse.x src rw`,
	}, "\n"))
	tests := []struct {
		id   uint64
		want record
	}{
		{1, record{"/", "ext4", "/dev/root", []string{"rw"}, []string{"rw"}}},
		{21, record{"/sub dir", "tmpfs", "may fly", []string{"ro", "nosuid"}, []string{"ro", "size=4k", `context="u:r:t:s0:c1,c2"`}}},
		{211, record{"/", "tmpfs", "", []string{"rw"}, []string{"rw"}}},
		{40, record{"/", "fuse.x", "src", []string{"rw"}, []string{"rw"}}},
	}
	for _, test := range tests {
		if got, err := table.lookup(test.id); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%d: got %+v, %v; want %+v", test.id, got, err, test.want)
		}
	}
	for _, id := range []uint64{30, 32, 33} {
		if _, err := table.lookup(id); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("mount %d", id)) {
			t.Errorf("%d: %v", id, err)
		}
	}
	for _, id := range []uint64{0, 2, 4, 11} {
		if _, err := table.lookup(id); !errors.Is(err, errVanished) {
			t.Errorf("%d: %v", id, err)
		}
	}
}

// A kernel before 6.13 answers without the source; that must send the question
// to mountinfo rather than declare the mount foreign.
func TestParseStatmount(t *testing.T) {
	order := binary.NativeEndian
	answer := make([]byte, statmountSize+64)
	order.PutUint64(answer[offsetMask:], statmountWanted|statmountOpts)
	order.PutUint64(answer[offsetAttr:], unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOATIME)
	order.PutUint32(answer[offsetSBFlags:], unix.MS_RDONLY)
	order.PutUint32(answer[offsetType:], 1)
	order.PutUint32(answer[offsetSource:], 10)
	order.PutUint32(answer[offsetOpts:], 20)
	order.PutUint32(answer[offsetRoot:], 1<<31) // out of bounds
	copy(answer[statmountSize+1:], "tmpfs\x00")
	copy(answer[statmountSize+10:], "mayfly\x00")
	copy(answer[statmountSize+20:], "size=4k,noswap\x00")
	got, err := parseStatmount(answer)
	want := record{"", "tmpfs", "mayfly", []string{"rw", "nosuid", "noatime"}, []string{"ro", "size=4k", "noswap"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	order.PutUint64(answer[offsetMask:], statmountWanted&^uint64(statmountSource))
	if _, err := parseStatmount(answer); err == nil {
		t.Error("an answer without the source was accepted")
	}
	if _, err := parseStatmount(answer[:100]); err == nil {
		t.Error("a short answer was accepted")
	}
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", "a b", "\\", "a\nb\t#", `\040`} {
		f.Add(s)
	}
	escape := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if strings.IndexByte(" \t\n\\#", c) >= 0 {
				fmt.Fprintf(&b, `\%03o`, c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(escape(s)); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
		if got := unescape(s); len(got) > len(s) {
			t.Errorf("%q grew to %q", s, got)
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte("5 4 0:1 / /x rw - tmpfs mayfly rw,size=4k\n4 3 0:1 / /x rw - t s rw\n"), uint64(5))
	f.Add([]byte("5 4 0:1 / /x rw - t s rw\n4 5 0:1 / /x rw - t s rw\n"), uint64(5))
	f.Add([]byte(`5 4 0:1 / /x rw shared:1 - tmpfs may\040fly rw,context="a,b"`), uint64(5))
	f.Fuzz(func(t *testing.T, text []byte, id uint64) {
		r, err := mountinfo(text).lookup(id)
		if err != nil {
			return
		}
		var info Info
		if err := info.fill(mountinfo(text), id); err != nil || !info.Mounted {
			t.Errorf("filled %+v, %v", info, err)
		}
		for _, option := range append(r.mountOptions, r.fsOpts...) {
			if option == "" || strings.Contains(option, ",") && !strings.ContainsAny(option, `"`) && !strings.Contains(string(text), `\054`) {
				t.Errorf("option %q", option)
			}
		}
	})
}

func FuzzStatmount(f *testing.F) {
	f.Add(make([]byte, statmountSize+8))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := parseStatmount(answer)
		if err == nil && len(r.mountOptions) == 0 {
			t.Errorf("no options in %+v", r)
		}
	})
}
