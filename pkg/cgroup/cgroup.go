// Package cgroup finds the memory limit of this process: in cgroup v2 or v1, with a cgroup
// namespace or without, in a container or not.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// unlimited is version 1's value for no limit, without the rounding to pages, which differs between
// machines.
const unlimited = 1 << 62

// MemoryLimit returns the lowest limit, in bytes, of the process's cgroup and all visible cgroups
// above it, and the file with that limit; 0 for none. root is the root directory of the machine:
// os.DirFS("/").
//
// A privileged container sees the whole tree of the host, with its own cgroup deep inside. A
// container with a cgroup namespace, or with its cgroup mounted over the root, sees its own cgroup
// as the root.
func MemoryLimit(root fs.FS) (limit int64, file string, err error) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, "", fmt.Errorf("finding the cgroup: %w", err)
	}
	mounts, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return 0, "", fmt.Errorf("finding the mounts of cgroups: %w", err)
	}
	v2, v1 := own(groups)
	for line := range strings.Lines(string(mounts)) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		dir, name := v2, "memory.max"
		if m.v1 {
			dir, name = v1, "memory.limit_in_bytes"
		}
		found, at, err := lowest(root, m.below(dir), m.point, name)
		if err != nil {
			return 0, "", err
		}
		if found > 0 && (limit == 0 || found < limit) {
			limit, file = found, at
		}
	}
	return limit, file, nil
}

// own returns the process's paths in the tree of version 2 and in that of version 1's memory
// controller, "/" if there is none. A line is "hierarchy:controllers:path", and only the path may
// contain colons.
func own(groups []byte) (v2, v1 string) {
	v2, v1 = "/", "/"
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			continue
		}
		if parts[0] == "0" && parts[1] == "" {
			v2 = parts[2]
		}
		if has(parts[1], "memory") {
			v1 = parts[2]
		}
	}
	return v2, v1
}

// mount is the mount of a cgroup tree that may have memory limits.
type mount struct {
	v1    bool
	root  string // the cgroup that is mounted
	point string
}

// parseMount parses a line of mountinfo: id, parent, device, root, point, options, any number of
// tags, "-", type, source, options of the file system.
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, kind := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(kind) < 3 {
		return mount{}, false
	}
	m := mount{v1: kind[0] == "cgroup", root: unescape(fields[3]), point: path.Join("/", unescape(fields[4]))}
	return m, kind[0] == "cgroup2" || m.v1 && has(kind[2], "memory")
}

// below returns where the process's cgroup is in the mount. If it is not there, for example because
// the mount is of another cgroup namespace, only the mounted cgroup is visible.
func (m mount) below(dir string) string {
	if dir = path.Clean(dir); dir == m.root {
		return m.point
	}
	if rest, ok := strings.CutPrefix(dir, strings.TrimSuffix(m.root, "/")+"/"); ok && !strings.HasPrefix(rest, "..") {
		return path.Join(m.point, rest)
	}
	return m.point
}

// lowest reads every cgroup from dir up to top.
func lowest(root fs.FS, dir, top, name string) (limit int64, file string, err error) {
	for {
		at := path.Join(dir, name)
		found, err := read(root, at)
		if err != nil {
			return 0, "", err
		}
		if found > 0 && (limit == 0 || found < limit) {
			limit, file = found, at
		}
		if dir == top || dir == "/" {
			return limit, file, nil
		}
		dir = path.Dir(dir)
	}
}

// read returns 0 for no limit. The root of the tree has no file.
func read(root fs.FS, file string) (int64, error) {
	data, err := fs.ReadFile(root, strings.TrimPrefix(file, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the memory limit: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("reading the memory limit: %s holds %q, which is no number of bytes", file, text[:min(len(text), 32)])
	}
	if n >= unlimited {
		return 0, nil
	}
	return n, nil
}

// unescape undoes mountinfo's octal escapes, such as \040.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func has(list, word string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if item == word {
			return true
		}
	}
	return false
}
