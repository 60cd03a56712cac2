package tmpfs

import (
	"cmp"
	"fmt"
	"io/fs"
	"strconv"
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
	// Mode is the permission of the root directory, DefaultMode if zero.
	Mode fs.FileMode
	// GID owns the root directory, the driver's own group if nil.
	GID *uint32
	// SELinuxContext labels the whole mount.
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
		checkContext(o.SELinuxContext),
	)
}

func checkLimit(field string, n int64) error {
	if n > 0 {
		return nil
	}
	return &OptionError{field, fmt.Sprintf("must be above 0 (which the kernel takes for no limit), not %d", n)}
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

// parameter is one option of the file system; without a value it is a flag.
type parameter struct{ key, value string }

// parameters are o in the kernel's form. The options that the kernel is least likely to refuse come
// last, because the first refusal is the one reported.
func (o Options) parameters(noSwap bool) []parameter {
	list := append(limits(o.Size, o.Inodes), parameter{"mode", strconv.FormatUint(uint64(cmp.Or(o.Mode, DefaultMode)), 8)})
	if o.GID != nil {
		list = append(list, parameter{"gid", strconv.FormatUint(uint64(*o.GID), 10)})
	}
	if noSwap {
		list = append(list, parameter{key: "noswap"})
	}
	if o.SELinuxContext != "" {
		list = append(list, parameter{"context", o.SELinuxContext})
	}
	return list
}

func limits(size, inodes int64) []parameter {
	return []parameter{
		{"size", strconv.FormatInt(size, 10)},
		{"nr_inodes", strconv.FormatInt(inodes, 10)},
	}
}
