package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// pluginRig is a node with a provider in a mount namespace of its own, as in a pod. It sees the
// node's new mounts if its propagation is slave, which Kubernetes calls HostToContainer, and does
// not if it is private.
type pluginRig struct {
	*rig
	store    string
	provider *testkit.Process
}

func newPluginRig(t *testing.T, propagation string) *pluginRig {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("needs unshare of util-linux")
	}
	var sockets string
	p := &pluginRig{store: t.TempDir()}
	p.rig = newRig(t, func(c *node.Config) {
		sockets = filepath.Join(filepath.Dir(strings.TrimPrefix(c.Endpoint, "unix://")), "p")
		c.Plugins = []string{sockets}
	})
	// The node's kubelet directory is a shared mount, as systemd has all be.
	root := filepath.Join(p.dir, "kubelet")
	testkit.Must(t, os.MkdirAll(root, 0o750))
	testkit.Must(t, unix.Mount(root, root, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	testkit.Must(t, unix.Mount("", root, "", unix.MS_SHARED, ""))
	bin := testkit.Value(toolcache.Program(t.Context(), os.Stderr, p.dir, "./test/pluginprovider/cmd/pluginprovider"))(t)
	p.set("one")
	p.provider = testkit.NewProcess(t, exec.Command(unshare, "--mount", "--propagation", propagation, bin, "--dir", sockets, "--name", "writer", "--store", p.store, "--deny", "shop/stranger"))
	p.eventually("the provider listens", func() bool { _, err := os.Lstat(filepath.Join(sockets, "writer.sock")); return err == nil })
	return p
}

// set writes the value of both objects.
func (p *pluginRig) set(value string) {
	for _, name := range []string{"password", "again"} {
		p.replace(filepath.Join(p.store, name), marker+"-"+value)
	}
}

func (p *pluginRig) class(name string, parameters ...string) {
	p.t.Helper()
	p.writeClass(name, "writer", "- {objectName: password}\n- {objectName: again}", append([]string{"audience: vault", "answer: writesItself"}, parameters...))
}

func (p *pluginRig) stages(pod kubelet.Pod) []string {
	return testkit.Value(filepath.Glob(filepath.Join(p.Target(pod), "..mayfly-*")))(p.t)
}

func TestProviderThatWritesItsFiles(t *testing.T) {
	p := newPluginRig(t, "slave")
	p.class("secrets")
	pod := p.pod("web-0", "web", "secrets")
	p.publish(pod)
	p.wantFile(pod, "one")
	if left := p.stages(pod); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	before := p.inode(pod)
	p.RefreshNow(t)
	p.eventually("a refresh", func() bool { return strings.Contains(p.log.String(), "nothing changed") })
	if p.inode(pod) != before {
		t.Error("an unchanged file was written anew")
	}
	err := p.refuse(p.pod("web-1", "stranger", "secrets"))
	testkit.Says(t, err, "may not read")
	for _, plant := range []string{"link out", "fifo", "hard link", "device", "huge", "crowd"} {
		p.class("hostile", "plant: "+plant)
		p.refuse(p.pod("web-2", "web", "hostile"))
	}
	testkit.Must(t, p.Unpublish(t.Context(), pod))
	p.wantNoMounts(t)
}

func (p *pluginRig) inode(pod kubelet.Pod) uint64 {
	var st unix.Stat_t
	testkit.Must(p.t, unix.Stat(filepath.Join(p.Target(pod), "password"), &st))
	return st.Ino
}

// RefreshNow refreshes every volume.
func (p *pluginRig) RefreshNow(t *testing.T) {
	t.Helper()
	p.refresh <- unix.SIGHUP
}

// wantNoMounts checks that the provider's mount namespace and the test's have no mount of the volumes.
func (p *pluginRig) wantNoMounts(t *testing.T) {
	t.Helper()
	for _, process := range []string{"self", fmt.Sprint(p.provider.Pid())} {
		mounts := testkit.Value(os.ReadFile(filepath.Join("/proc", process, "mountinfo")))(t)
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, p.dir+"/kubelet/pods") {
				t.Errorf("process %s still has %s", process, line)
			}
		}
	}
}

// TestReadersWhileAProviderWrites: readers see one payload or the next. The driver keeps a replaced
// payload until the second write after it, so each round waits until all readers have finished a read.
func TestReadersWhileAProviderWrites(t *testing.T) {
	p := newPluginRig(t, "slave")
	p.class("secrets")
	pod := p.pod("web-0", "web", "secrets")
	p.publish(pod)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	var reads [2]atomic.Int64
	for i := range reads {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				testkit.Check(t, wholePayload(p.Target(pod)))
				reads[i].Add(1)
			}
		})
	}
	for i := range 20 {
		value := fmt.Sprintf("round-%d", i)
		p.set(value)
		p.RefreshNow(t)
		p.eventually("the file is "+value, func() bool { return p.file(pod, "password") == marker+"-"+value })
		p.eventually("the refresh has ended", func() bool { return strings.Count(p.log.String(), "msg=rotated") == i+1 })
		for j := range reads {
			n := reads[j].Load()
			p.eventually("a reader has finished another read", func() bool { return reads[j].Load() > n+1 })
		}
	}
}

// wholePayload reads both files of one payload.
func wholePayload(target string) error {
	entries, err := os.ReadDir(target)
	if err != nil {
		return err
	}
	for _, e := range entries { // a stage may be in the volume, but none of its files
		if !strings.HasPrefix(e.Name(), "..") && e.Name() != "password" && e.Name() != "again" {
			return fmt.Errorf("%q is in the volume", e.Name())
		}
	}
	dir, err := os.OpenRoot(filepath.Join(target, "..data"))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	a, err := dir.ReadFile("password")
	if err != nil {
		return err
	}
	b, err := dir.ReadFile("again")
	if err == nil && (string(a) != string(b) || !strings.HasPrefix(string(a), marker)) {
		err = errors.New("the files are not of one payload")
	}
	return err
}

// TestProviderThatDoesNotSeeTheVolumes: without mount propagation the provider cannot write. The error
// says so, and no file is on the node's disk.
func TestProviderThatDoesNotSeeTheVolumes(t *testing.T) {
	p := newPluginRig(t, "private")
	p.class("secrets")
	err := p.refuse(p.pod("web-0", "web", "secrets"))
	testkit.Says(t, err, "mountPropagation: HostToContainer")
	err = filepath.WalkDir(filepath.Join(p.dir, "kubelet"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = errors.Join(err, fmt.Errorf("%s is on the disk", path))
		}
		return err
	})
	testkit.Must(t, err)
}

// owned returns the mode and the owners of a file.
func (r *rig) owned(p kubelet.Pod, name string) string {
	r.t.Helper()
	var st unix.Stat_t
	testkit.Must(r.t, unix.Stat(filepath.Join(r.Target(p), name), &st))
	return fmt.Sprintf("%04o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

// readAs reads a file as a container's user, who can open the volume's directory and nothing above it.
func (r *rig) readAs(p kubelet.Pod, name string, uid, gid uint32) (string, error) {
	r.t.Helper()
	dir := testkit.Value(os.Open(r.Target(p)))(r.t)
	defer func() { _ = dir.Close() }()
	cat := exec.CommandContext(r.t.Context(), "cat", "/proc/self/fd/3/"+name)
	cat.Dir, cat.ExtraFiles = "/", []*os.File{dir}
	cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cat.CombinedOutput()
	return string(out), err
}

// TestOwners: a user that is not root can read its file of mode 0400, and no other user can. An edit of
// the owner alone reaches the pod.
func TestOwners(t *testing.T) {
	if kubelet.MappedGroup(2000) != 2000 {
		t.Skip("needs the ids of the node, and not a user namespace")
	}
	r := newRig(t, nil)
	class := func(uid int) {
		r.manifest("owned", fmt.Sprintf(`- {objectName: password, secretPath: secret/data/db, secretKey: password, mode: 0400, uid: %d}
- {objectName: grouped, secretPath: secret/data/db, secretKey: password, filePermission: 0440, gid: 3000}
- {objectName: plain, secretPath: secret/data/db, secretKey: password, filePermission: 0400}`, uid),
			`templates: "- {fileName: dir/pgpass, mode: 0600, uid: 1000, gid: 1000, text: '{{ .password }}'}"`,
			`permissions: "- {fileName: grouped, uid: 1002}"`)
	}
	class(1000)
	p := r.pod("web-0", "web", "owned")
	p.FSGroup = "2000"
	r.publish(p)
	for name, want := range map[string]string{
		"password": "0400 1000:2000", "grouped": "0440 1002:3000", "plain": "0440 0:2000", "dir/pgpass": "0600 1000:1000", "dir": "0755 0:2000",
	} {
		if got := r.owned(p, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	reads := func(uid, gid uint32, file string, may bool) {
		t.Helper()
		if got, err := r.readAs(p, file, uid, gid); (err == nil && got == marker+"-one") != may || !may && !strings.Contains(got, "Permission denied") {
			t.Errorf("user %d of group %d reads %s: %q, %v", uid, gid, file, got, err)
		}
	}
	reads(1000, 1, "password", true)
	reads(1001, 2000, "password", false)
	reads(1001, 3000, "grouped", true)
	reads(1001, 2000, "plain", true)
	reads(1000, 1000, "dir/pgpass", true)
	class(1001)
	r.eventually("the owner is the edited class's", func() bool { return r.owned(p, "password") == "0400 1001:2000" })
	reads(1001, 2000, "password", true)
	reads(1000, 2000, "password", false)
	r.manifest("owned", "- {objectName: password, secretPath: secret/data/db, secretKey: password, uid: web}")
	if err := r.refuse(r.pod("web-1", "web", "owned")); !strings.Contains(err.Error(), "spec.parameters.objects[0].uid") {
		t.Errorf("an owner by name: %v", err)
	}
}

// TestOwnersOfAPluginsFiles: the class sets the owners of a plugin's files, since plugins set a mode only.
func TestOwnersOfAPluginsFiles(t *testing.T) {
	if kubelet.MappedGroup(2000) != 2000 {
		t.Skip("needs the ids of the node, and not a user namespace")
	}
	p := newPluginRig(t, "private")
	p.writeClass("files", "writer", "- {objectName: password}\n- {objectName: again}", []string{
		"audience: vault", `permissions: "[{fileName: password, mode: 0400, uid: 1000}, {fileName: '*', gid: 3000}]"`,
	})
	pod := p.pod("web-0", "web", "files")
	p.publish(pod)
	p.wantOwned(pod, map[string]string{"password": "0400 1000:0", "again": "0644 0:3000"})
}
