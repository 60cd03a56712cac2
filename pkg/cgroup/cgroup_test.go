package cgroup_test

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mayfly-csi/mayfly/pkg/cgroup"
)

const (
	tree2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	tree1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
		"34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 master:3 - cgroup cgroup rw,memory\n"
	pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
)

func TestMemoryLimit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		groups string
		mounts string
		files  map[string]string
		limit  int64
		file   string
	}{
		{"a privileged container, which sees the host's tree", "0::/" + pod + "/cri-1.scope\n", tree2, map[string]string{
			"sys/fs/cgroup/" + pod + "/cri-1.scope/memory.max": "201326592\n", "sys/fs/cgroup/" + pod + "/memory.max": "301326592\n",
			"sys/fs/cgroup/kubepods.slice/memory.max": "8000000000\n",
		}, 201326592, "/sys/fs/cgroup/" + pod + "/cri-1.scope/memory.max"},
		{"the pod's limit is lower", "0::/" + pod + "/cri-1.scope\n", tree2, map[string]string{
			"sys/fs/cgroup/" + pod + "/cri-1.scope/memory.max": "max\n", "sys/fs/cgroup/" + pod + "/memory.max": "4096\n",
		}, 4096, "/sys/fs/cgroup/" + pod + "/memory.max"},
		{"a cgroup namespace", "0::/\n", tree2, map[string]string{"sys/fs/cgroup/memory.max": "201326592\n"}, 201326592, "/sys/fs/cgroup/memory.max"},
		{"a namespace made after the mount", "0::/../../x\n", tree2, map[string]string{"sys/fs/cgroup/memory.max": "5\n"}, 5, "/sys/fs/cgroup/memory.max"},
		{"its own cgroup is mounted", "0::/" + pod + "\n", "31 23 0:28 /" + pod + " /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
			map[string]string{"sys/fs/cgroup/memory.max": "7\n"}, 7, "/sys/fs/cgroup/memory.max"},
		{"no limit", "0::/a\n", tree2, map[string]string{"sys/fs/cgroup/a/memory.max": "max\n"}, 0, ""},
		{"the root of the host", "0::/\n", tree2, nil, 0, ""},
		{"version 1", "12:pids:/\n4:cpu,memory:/kubepods/pod1/c1\n0::/\n", tree1, map[string]string{
			"sys/fs/cgroup/memory/kubepods/pod1/c1/memory.limit_in_bytes": "100\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 100, "/sys/fs/cgroup/memory/kubepods/pod1/c1/memory.limit_in_bytes"},
		{"version 1, its own cgroup is mounted", "4:memory:/docker/c1\n", "35 31 0:32 /docker/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "100\n"}, 100, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		{"version 1 without a limit", "4:memory:/\n", tree1, map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0, ""},
		{"a mount point with a space", "0::/\n", `31 23 0:28 / /sys/fs/c\040group rw - cgroup2 cgroup2 rw` + "\n", map[string]string{"sys/fs/c group/memory.max": "9\n"}, 9, "/sys/fs/c group/memory.max"},
		{"a name like the mounted one", "0::/pod12\n", "31 23 0:28 /pod1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n", map[string]string{"sys/fs/cgroup/memory.max": "7\n"}, 7, "/sys/fs/cgroup/memory.max"},
		{"nothing that can be read", "rubbish\n", "1 2\n - \n", nil, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(tc.groups)}, "proc/self/mountinfo": {Data: []byte(tc.mounts)}}
			for name, data := range tc.files {
				root[name] = &fstest.MapFile{Data: []byte(data)}
			}
			limit, file, err := cgroup.MemoryLimit(root)
			if err != nil || limit != tc.limit || file != tc.file {
				t.Errorf("%d of %q (%v), want %d of %q", limit, file, err, tc.limit, tc.file)
			}
		})
	}
}

func TestMemoryLimitErrors(t *testing.T) {
	root := fstest.MapFS{}
	if _, _, err := cgroup.MemoryLimit(root); err == nil {
		t.Error("no error without /proc")
	}
	root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte("0::/\n")}
	root["proc/self/mountinfo"] = &fstest.MapFile{Data: []byte(tree2)}
	root["sys/fs/cgroup/memory.max"] = &fstest.MapFile{Data: []byte("lots\n")}
	if _, _, err := cgroup.MemoryLimit(root); err == nil || !strings.Contains(err.Error(), "/sys/fs/cgroup/memory.max") {
		t.Errorf("a limit that is no number: %v", err)
	}
}

// This machine's own limit, whatever it is, can be found.
func TestHere(t *testing.T) {
	if limit, file, err := cgroup.MemoryLimit(os.DirFS("/")); err != nil || (limit > 0) != (file != "") {
		t.Errorf("%d of %q: %v", limit, file, err)
	}
}

func FuzzMemoryLimit(f *testing.F) {
	f.Add("0::/"+pod+"\n4:memory:/x\n", tree2+tree1, "12")
	f.Add("0::/../..\n", "31 23 0:28 /.. /sys/fs/cgroup/../.. rw - cgroup2 c rw\n", "max")
	f.Fuzz(func(t *testing.T, groups, mounts, limit string) {
		root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(groups)}, "proc/self/mountinfo": {Data: []byte(mounts)}, "sys/fs/cgroup/memory.max": {Data: []byte(limit)}}
		if n, _, err := cgroup.MemoryLimit(root); n < 0 || err != nil && n != 0 {
			t.Errorf("%d, %v", n, err)
		}
	})
}
