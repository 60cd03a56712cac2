// Package limits bounds what volumes take: the size and the number of files of one, and the
// memory of the node.
package limits

import (
	"cmp"
	"fmt"
	"path"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Limits are the driver's settings for all volumes. A class may ask for others.
type Limits struct {
	// Interval is the time between two refreshes, if neither class nor provider asks
	// for another.
	Interval time.Duration
	// SizeLimit and InodeLimit bound a payload, if its class asks for nothing else:
	// bytes of contents, and number of files and directories.
	SizeLimit  int64
	InodeLimit int64
	// MaxSizeLimit, MaxInodeLimit and MinInterval bound what a class may ask for; 0
	// for no bound.
	MaxSizeLimit  int64
	MaxInodeLimit int64
	MinInterval   time.Duration
}

// CheckCeilings refuses a class that asks for more than the operator allows. Do not
// call it for a live volume, which gets the greatest limit that is allowed.
func (l *Limits) CheckCeilings(c *class.Class) error {
	switch {
	case l.MaxSizeLimit > 0 && c.SizeLimit > l.MaxSizeLimit:
		return fault.New(fault.NotAllowed, "spec.parameters.%s is %d bytes, more than the %d that the operator allows", class.SizeLimitKey, c.SizeLimit, l.MaxSizeLimit).
			WithHint("ask for less, or have the operator raise %s", setting.Name("--max-volume-size-limit"))
	case l.MaxInodeLimit > 0 && c.InodeLimit > l.MaxInodeLimit:
		return fault.New(fault.NotAllowed, "spec.parameters.%s is %d, more than the %d that the operator allows", class.InodeLimitKey, c.InodeLimit, l.MaxInodeLimit).
			WithHint("ask for less, or have the operator raise %s", setting.Name("--max-volume-inode-limit"))
	}
	return nil
}

// WithFloor raises the interval of a class to the shortest that the operator allows:
// a refusal would stop the refreshes of live volumes.
func (l *Limits) WithFloor(c *class.Class) (_ *class.Class, warning string) {
	if c.RefreshInterval == 0 || c.RefreshInterval >= l.MinInterval {
		return c, ""
	}
	raised := *c
	raised.RefreshInterval = l.MinInterval
	return &raised, fmt.Sprintf("spec.parameters.%s is %s, less than the operator allows: %s is used: %s", class.RefreshIntervalKey, c.RefreshInterval, l.MinInterval, setting.Name("--min-refresh-interval"))
}

// PayloadLimit returns the greatest size of a payload of the class, in bytes.
func (l *Limits) PayloadLimit(c *class.Class) int64 {
	return ceiled(cmp.Or(c.SizeLimit, l.SizeLimit), l.MaxSizeLimit)
}

func (l *Limits) inodeLimit(c *class.Class) int64 {
	return ceiled(cmp.Or(c.InodeLimit, l.InodeLimit), l.MaxInodeLimit)
}

// ceiled returns the limit, or the operator's ceiling if that is lower; a ceiling of
// 0 is none.
func ceiled(limit, ceiling int64) int64 {
	if ceiling > 0 {
		return min(limit, ceiling)
	}
	return limit
}

// Fit returns the files of the payload. It refuses a payload that exceeds the
// volume's limits.
func (l *Limits) Fit(c *class.Class, payload *provider.Payload) ([]atomicdir.File, error) {
	files := make([]atomicdir.File, len(payload.Files))
	var size int64
	for i, f := range payload.Files {
		files[i] = atomicdir.File{Path: f.Path, Mode: f.Mode, Owner: f.Owner, Contents: f.Contents.Reveal()}
		size += int64(f.Contents.Len())
	}
	if limit := l.PayloadLimit(c); size > limit {
		return nil, fault.New(fault.TooLarge, "the payload is %d bytes, the volume's limit is %d", size, limit).
			WithHint("raise spec.parameters.volumeSizeLimit of the class, or the driver's %s%s", setting.Name("--volume-size-limit"), upTo(limit, l.MaxSizeLimit, "--max-volume-size-limit"))
	}
	if inodes, limit := int64(len(files)+len(directories(files))), l.inodeLimit(c); inodes > limit {
		return nil, fault.New(fault.TooLarge, "the payload is %d files and directories, the volume's limit is %d", inodes, limit).
			WithHint("raise spec.parameters.volumeInodeLimit of the class, or the driver's %s%s", setting.Name("--volume-inode-limit"), upTo(limit, l.MaxInodeLimit, "--max-volume-inode-limit"))
	}
	return files, nil
}

// upTo names the ceiling if the limit has reached it.
func upTo(limit, ceiling int64, flag string) string {
	if ceiling > 0 && limit == ceiling {
		return "; the operator's ceiling is " + flag
	}
	return ""
}

// directories returns the directories of the files, each once.
func directories(files []atomicdir.File) map[string]struct{} {
	dirs := map[string]struct{}{}
	for _, f := range files {
		for d := path.Dir(f.Path); d != "." && d != "/"; d = path.Dir(d) {
			if _, ok := dirs[d]; ok {
				break // and those above it
			}
			dirs[d] = struct{}{}
		}
	}
	return dirs
}

// MountOptions has room for two payloads at their limits, because the old one stays
// until the new one is complete: two times the bytes, and for each inode its last
// page, the inode itself, and a link. The kernel charges a tmpfs only for its content.
func (l *Limits) MountOptions(c *class.Class, gid *uint32, label string) tmpfs.Options {
	inodes := 3*l.inodeLimit(c) + 16
	return tmpfs.Options{
		Size:           2*l.PayloadLimit(c) + inodes*pageSize,
		Inodes:         inodes,
		Mode:           0o755,
		GID:            gid,
		SELinuxContext: label,
	}
}
