package volume

import (
	"path"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

func (p *Publisher) interval(c *class.Class) time.Duration {
	if c.RefreshInterval > 0 {
		return c.RefreshInterval
	}
	return p.Interval
}

func (p *Publisher) sizeLimit(c *class.Class) int64 {
	limit := p.SizeLimit
	if c.SizeLimit > 0 {
		limit = c.SizeLimit
	}
	return ceiled(limit, p.MaxSizeLimit)
}

func (p *Publisher) inodeLimit(c *class.Class) int64 {
	limit := p.InodeLimit
	if c.InodeLimit > 0 {
		limit = c.InodeLimit
	}
	return ceiled(limit, p.MaxInodeLimit)
}

// ceiled is the limit within the operator's ceiling, 0 for none.
func ceiled(limit, ceiling int64) int64 {
	if ceiling > 0 {
		return min(limit, ceiling)
	}
	return limit
}

// fit turns the payload into files, and refuses one that is over the volume's
// limits before anything is touched.
func (p *Publisher) fit(c *class.Class, payload *provider.Payload) ([]atomicdir.File, error) {
	files := make([]atomicdir.File, len(payload.Files))
	var size int64
	for i, f := range payload.Files {
		files[i] = atomicdir.File{Path: f.Path, Mode: f.Mode, Contents: f.Contents.Reveal()}
		size += int64(f.Contents.Len())
	}
	if limit := p.sizeLimit(c); size > limit {
		return nil, fault.New(fault.TooLarge, "the payload is %d bytes, the volume's limit is %d", size, limit).
			WithHint("raise spec.parameters.volumeSizeLimit of the class, or the driver's %s%s", setting.Name("--volume-size-limit"), upTo(limit, p.MaxSizeLimit, "--max-volume-size-limit"))
	}
	if inodes, limit := countInodes(files), p.inodeLimit(c); inodes > limit {
		return nil, fault.New(fault.TooLarge, "the payload is %d files and directories, the volume's limit is %d", inodes, limit).
			WithHint("raise spec.parameters.volumeInodeLimit of the class, or the driver's %s%s", setting.Name("--volume-inode-limit"), upTo(limit, p.MaxInodeLimit, "--max-volume-inode-limit"))
	}
	return files, nil
}

// upTo names the ceiling where the limit is at it.
func upTo(limit, ceiling int64, flag string) string {
	if ceiling > 0 && limit == ceiling {
		return "; the operator's ceiling is " + flag
	}
	return ""
}

// countInodes counts the files and each of their directories once.
func countInodes(files []atomicdir.File) int64 {
	return int64(len(files) + len(directories(files)))
}

// directories are those that the files lie in, each once.
func directories(files []atomicdir.File) map[string]struct{} {
	dirs := map[string]struct{}{}
	for _, f := range files {
		for d := path.Dir(f.Path); d != "." && d != "/"; d = path.Dir(d) {
			if _, ok := dirs[d]; ok {
				break // and what is above it
			}
			dirs[d] = struct{}{}
		}
	}
	return dirs
}

// mountOptions make room for two payloads at their limits, since the old one
// stays until the new one is whole: two times the bytes, and for each inode
// the page that its last bytes begin, itself, and a link. The kernel charges
// a tmpfs for what it holds only.
func (p *Publisher) mountOptions(rec *Record, c *class.Class) tmpfs.Options {
	inodes := 3*p.inodeLimit(c) + 16
	return tmpfs.Options{
		Size:           2*p.sizeLimit(c) + inodes*pageSize,
		Inodes:         inodes,
		Mode:           0o755,
		GID:            rec.GID,
		SELinuxContext: rec.SELinuxContext,
	}
}
