package wire

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	dir, err := os.Open(r.Target(p))
	testkit.Must(r.t, err)
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
