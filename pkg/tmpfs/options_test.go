package tmpfs

import (
	"errors"
	"io/fs"
	"math"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestValidate(t *testing.T) {
	id := func(n int) *int { return &n }
	noGroup := int64(math.MaxUint32) // a variable, as 32-bit machines cannot hold the constant
	tests := []struct {
		name   string
		change func(*Options)
		field  string
	}{
		{"plain", func(*Options) {}, ""},
		{"no size", func(o *Options) { o.Size = 0 }, "Size"},
		{"negative size", func(o *Options) { o.Size = -1 }, "Size"},
		{"no inodes", func(o *Options) { o.Inodes = 0 }, "Inodes"},
		{"closed mode", func(o *Options) { o.Mode = 0o500 }, ""},
		{"setgid", func(o *Options) { o.Mode = 0o755 | fs.ModeSetgid }, "Mode"},
		{"high mode bits", func(o *Options) { o.Mode = 0o4755 }, "Mode"},
		{"group writes", func(o *Options) { o.Mode = 0o775 }, "Mode"},
		{"others write", func(o *Options) { o.Mode = 0o757 }, "Mode"},
		{"group", func(o *Options) { o.GID = id(math.MaxInt32) }, ""},
		{"negative group", func(o *Options) { o.GID = id(-1) }, "GID"},
		{"no group", func(o *Options) { o.GID = id(int(noGroup)) }, "GID"},
		{"context", func(o *Options) { o.SELinuxContext = "u:r:t:s0:c1,c2" }, ""},
		{"quoted context", func(o *Options) { o.SELinuxContext = `"u:r:t:s0:c1,c2"` }, ""},
		{"quote within", func(o *Options) { o.SELinuxContext = `u:r:t:s0",size=1g,x="` }, "SELinuxContext"},
		{"lone quote", func(o *Options) { o.SELinuxContext = `"` }, "SELinuxContext"},
		{"NUL", func(o *Options) { o.SELinuxContext = "u:r\x00" }, "SELinuxContext"},
		{"newline", func(o *Options) { o.SELinuxContext = "u:r\n" }, "SELinuxContext"},
		{"backslash", func(o *Options) { o.SELinuxContext = `u:r\` }, "SELinuxContext"},
		{"longest", func(o *Options) { o.SELinuxContext = strings.Repeat("c", 255) }, ""},
		{"too long", func(o *Options) { o.SELinuxContext = strings.Repeat("c", 256) }, "SELinuxContext"},
	}
	for _, test := range tests {
		o := small()
		test.change(&o)
		err := o.Validate()
		var option *OptionError
		switch {
		case test.field == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.field != "" && (!errors.As(err, &option) || option.Field != test.field):
			t.Errorf("%s: got %v, want field %s", test.name, err, test.field)
		}
	}
}

func TestValidateNames(t *testing.T) {
	err := (&Mounter{}).Mount("/nowhere", Options{Mode: 0o777})
	testkit.Says(t, err, "/nowhere", "Size")
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
}
