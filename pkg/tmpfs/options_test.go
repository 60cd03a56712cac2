package tmpfs

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestValidate(t *testing.T) {
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
		{"group", func(o *Options) { o.GID = new(uint32(math.MaxInt32)) }, ""},
		{"context", func(o *Options) { o.SELinuxContext = "u:r:t:s0:c1,c2" }, ""},
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
