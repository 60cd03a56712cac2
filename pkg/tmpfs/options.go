package tmpfs

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
)

// DefaultMode is the mode of a volume's root directory if Options has none. Pods that run as any
// user must be able to enter it; on the host, the pod's directory above it (0750, made by kubelet)
// keeps other users out.
const DefaultMode fs.FileMode = 0o755

// maxParameter is the longest value that fsconfig(2) takes, its final NUL not
// counted.
const maxParameter = 255

// Options describes one volume's file system. Its mount is always nosuid, nodev and noexec, and
// noswap if the kernel supports that.
type Options struct {
	// Size is the limit of the contents in bytes; the kernel rounds it up to
	// whole pages. It must be above zero: to the kernel zero means no limit.
	Size int64
	// Inodes is the limit of files, directories and symbolic links, the root
	// directory included. It must be above zero, for the same reason.
	Inodes int64
	// Mode is the permission of the root directory, DefaultMode if zero. It
	// may not let group or others write: only the driver does.
	Mode fs.FileMode
	// GID owns the root directory, the driver's own group if nil.
	GID *int
	// SELinuxContext labels the whole mount. Surrounding double quotes, which
	// kubelet puts around the context in a volume's mount flags, are dropped.
	SELinuxContext string
}

// OptionError says which field of Options is invalid and why.
type OptionError struct {
	Field   string
	Problem string
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("tmpfs option %s: %s", e.Field, e.Problem)
}

// Validate returns an *OptionError for the first invalid field.
func (o Options) Validate() error {
	return cmp.Or(
		checkLimit("Size", o.Size),
		checkLimit("Inodes", o.Inodes),
		checkMode(o.Mode),
		checkGID(o.GID),
		checkContext(o.context()),
	)
}

func checkLimit(field string, n int64) error {
	if n > 0 {
		return nil
	}
	return &OptionError{field, fmt.Sprintf("must be above 0 (which the kernel takes for no limit), not %d", n)}
}

func checkMode(mode fs.FileMode) error {
	switch {
	case mode&^fs.ModePerm != 0:
		return &OptionError{"Mode", fmt.Sprintf("must hold permission bits alone, not %v", mode)}
	case mode&0o022 != 0:
		return &OptionError{"Mode", fmt.Sprintf("must not let group or others write, as %#o does", mode)}
	}
	return nil
}

func checkGID(gid *int) error {
	// The kernel reads the highest number as "no group".
	if gid == nil || *gid >= 0 && int64(*gid) < math.MaxUint32 {
		return nil
	}
	return &OptionError{"GID", fmt.Sprintf("must be from 0 to %d, not %d", uint32(math.MaxUint32-1), *gid)}
}

// checkContext refuses characters that no SELinux context has and that mount(2), whose options are
// one comma-separated string, could misread.
func checkContext(context string) error {
	if len(context) > maxParameter {
		return &OptionError{"SELinuxContext", fmt.Sprintf("must be at most %d bytes, not %d", maxParameter, len(context))}
	}
	for _, c := range []byte(context) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return &OptionError{"SELinuxContext", fmt.Sprintf("must not contain %q: %q", c, context)}
		}
	}
	return nil
}

func (o Options) context() string {
	if inner, ok := strings.CutPrefix(o.SELinuxContext, `"`); ok {
		if inner, ok = strings.CutSuffix(inner, `"`); ok {
			return inner
		}
	}
	return o.SELinuxContext
}

// parameter is one option of the file system; without a value it is a flag.
type parameter struct{ key, value string }

// parameters are o in the kernel's form. The options that the kernel is least likely to refuse come
// last, because the first refusal is the one reported.
func (o Options) parameters(noSwap bool) []parameter {
	list := append(limits(o.Size, o.Inodes), parameter{"mode", strconv.FormatUint(uint64(cmp.Or(o.Mode, DefaultMode)), 8)})
	if o.GID != nil {
		list = append(list, parameter{"gid", strconv.Itoa(*o.GID)})
	}
	if noSwap {
		list = append(list, parameter{key: "noswap"})
	}
	if context := o.context(); context != "" {
		list = append(list, parameter{"context", context})
	}
	return list
}

func limits(size, inodes int64) []parameter {
	return []parameter{
		{"size", strconv.FormatInt(size, 10)},
		{"nr_inodes", strconv.FormatInt(inodes, 10)},
	}
}
