package volume

import (
	"path"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

func (p *Publisher) interval(c *class.Class) time.Duration {
	if c.RefreshInterval > 0 {
		return c.RefreshInterval
	}
	return p.Interval
}

func (p *Publisher) sizeLimit(c *class.Class) int64 {
	if c.SizeLimit > 0 {
		return c.SizeLimit
	}
	return p.SizeLimit
}

func (p *Publisher) inodeLimit(c *class.Class) int64 {
	if c.InodeLimit > 0 {
		return c.InodeLimit
	}
	return p.InodeLimit
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
		return nil, fault.New(fault.TooLarge, "class %s: the payload is %d bytes, the volume's limit is %d", c.Ref, size, limit).
			WithHint("raise spec.parameters.volumeSizeLimit of the class, or the driver's --volume-size-limit")
	}
	if inodes, limit := countInodes(files), p.inodeLimit(c); inodes > limit {
		return nil, fault.New(fault.TooLarge, "class %s: the payload is %d files and directories, the volume's limit is %d", c.Ref, inodes, limit).
			WithHint("raise spec.parameters.volumeInodeLimit of the class, or the driver's --volume-inode-limit")
	}
	return files, nil
}

// countInodes counts the files and each of their directories once.
func countInodes(files []atomicdir.File) int64 {
	dirs := map[string]struct{}{}
	for _, f := range files {
		for d := path.Dir(f.Path); d != "." && d != "/"; d = path.Dir(d) {
			dirs[d] = struct{}{}
		}
	}
	return int64(len(files) + len(dirs))
}

const pageSize = 4096

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
