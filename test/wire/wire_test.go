package wire

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

func TestLifeOfAVolume(t *testing.T) {
	r := newRig(t, nil)
	testkit.Must(t, r.vault.PutKV1(t.Context(), "kv1", "app", map[string]any{"user": marker + "-user"}))
	r.manifest("secrets", `- {objectName: password, secretPath: secret/data/db, secretKey: password, filePermission: 0400}
- {objectName: nested/user, secretPath: kv1/app, secretKey: user}`, "refreshInterval: 1s")
	p := r.pod("web-0", "web", "secrets")
	gid := kubelet.MappedGroup(2000)
	p.FSGroup = strconv.Itoa(gid)
	r.publish(p)
	r.wantFile(p, "one")
	if got := r.file(p, "nested/user"); got != marker+"-user" {
		t.Errorf("nested/user holds %q", got)
	}
	var st unix.Stat_t
	testkit.Must(t, unix.Stat(filepath.Join(r.Target(p), "password"), &st))
	if st.Mode&0o777 != 0o440 || int(st.Gid) != gid {
		t.Errorf("mode %o, group %d", st.Mode&0o777, st.Gid)
	}
	stats, err := r.Node.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: p.VolumeID(), VolumePath: r.Target(p)})
	if err != nil || len(stats.GetUsage()) != 2 || stats.GetUsage()[0].GetUsed() == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	// A directory that a pod opened before sees the rotation.
	dir := testkit.Value(os.Open(r.Target(p)))(t)
	defer func() { _ = dir.Close() }()
	r.put("db", "two")
	r.eventually("the file is rotated", func() bool { return r.file(p, "password") == marker+"-two" })
	fd := testkit.Value(unix.Openat(int(dir.Fd()), "password", unix.O_RDONLY, 0))(t)
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	_ = unix.Close(fd)
	if err != nil || string(buf[:n]) != marker+"-two" {
		t.Errorf("through the open directory: %q, %v", buf[:n], err)
	}
	r.wantAudit("web", "secret/data/db")
	testkit.Must(t, r.Unpublish(t.Context(), p))
	if _, err := os.Lstat(filepath.Join(r.Root, "pods", p.UID)); !os.IsNotExist(err) {
		t.Errorf("the pod's directory is left: %v", err)
	}
}

// wantAudit checks that Vault's audit log has a read by a service account.
func (r *rig) wantAudit(account, path string) {
	r.t.Helper()
	entries := testkit.Value(r.vault.AuditEntries(r.t.Context()))(r.t)
	for _, e := range entries {
		if e.Path == path && e.Metadata["service_account_name"] == account {
			return
		}
	}
	r.t.Errorf("Vault's audit log does not say that %s read %s", account, path)
}

func TestValueOverTheVolumesLimit(t *testing.T) {
	r := newRig(t, nil)
	r.class("secrets", "refreshInterval: 1s")
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	r.put("db", strings.Repeat("x", 2<<20))
	r.eventually("the refresh has failed", func() bool { return strings.Contains(r.log.String(), "volumeSizeLimit") })
	r.wantFile(p, "one")
	r.class("secrets", "refreshInterval: 1s", "volumeSizeLimit: 16Mi")
	r.eventually("the edited class lets it in", func() bool { return len(r.file(p, "password")) > 2<<20 })
	big := strings.Repeat("y", 10<<20)
	r.put("db", big)
	r.eventually("a value of 10 MiB has arrived", func() bool { return r.file(p, "password") == marker+"-"+big })
}

func TestRestartOfTheDriver(t *testing.T) {
	r := newRig(t, nil)
	r.class("secrets")
	var pods []kubelet.Pod
	for _, name := range []string{"a", "b", "c"} {
		pods = append(pods, r.pod(name, "web", "secrets"))
		r.publish(pods[len(pods)-1])
	}
	r.stop()
	mark := testkit.Value(r.vault.Mark())(t)
	seen := strings.Count(r.log.String(), "the version of a class is known")
	r.start()
	r.eventually("the driver has read the class", func() bool {
		return strings.Count(r.log.String(), "the version of a class is known") > seen
	})
	testkit.Has(t, r.log.String(), "class=shop/secrets volumesOfAnotherVersion=0")
	for _, p := range pods {
		r.wantFile(p, "one")
		r.publish(p)
	}
	counts := testkit.Value(r.vault.CountRequests(t.Context(), mark))(t)
	if n := counts.Under(""); n != 0 {
		t.Errorf("the restart cost %d requests to Vault: %v", n, counts)
	}
	for _, p := range pods {
		testkit.Must(t, r.Unpublish(t.Context(), p))
	}
}

func TestUnchangedRefreshWritesNothing(t *testing.T) {
	r := newRig(t, nil)
	r.manifest("secrets", `- {objectName: password, secretPath: secret/data/db, secretKey: password}
- {objectName: whole, secretPath: secret/data/db}`, "refreshInterval: 1s")
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	stat := func(name string) (st unix.Stat_t) {
		testkit.Must(t, unix.Stat(filepath.Join(r.Target(p), name), &st))
		return st
	}
	before := []unix.Stat_t{stat("password"), stat("whole")}
	polls := func() int {
		c := testkit.Value(r.vault.CountRequests(t.Context(), vaulttest.Mark{}))(t)
		return c.Under("secret/data/db")
	}
	r.eventually("three refreshes", func() bool { return polls() >= 4 })
	for i, name := range []string{"password", "whole"} {
		if after := stat(name); after.Ino != before[i].Ino || after.Mtim != before[i].Mtim {
			t.Errorf("%s was written again", name)
		}
	}
}

func TestHealth(t *testing.T) {
	r := newRig(t, nil)
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, text := r.get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	testkit.Value(kubelet.Register(t.Context(), filepath.Join(r.dir, "secrets-store.csi.k8s.io-reg.sock"), errors.New("no")))(t)
	if code, text := r.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "registration") {
		t.Errorf("/readyz after a refused registration: %d %s", code, text)
	}
}

func TestRefreshOnDemand(t *testing.T) {
	hangup := make(chan os.Signal)
	r := newRig(t, func(c *node.Config) { c.RefreshNow = hangup })
	r.class("secrets")
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	r.put("db", "two")
	hangup <- unix.SIGHUP
	r.eventually("the file is new", func() bool { return r.file(p, "password") == marker+"-two" })
	r.put("db", "three")
	r.class("secrets", "refreshInterval: 2h") // any edit of the class does the same
	r.eventually("the file is new again", func() bool { return r.file(p, "password") == marker+"-three" })
}

func TestAllowedAddresses(t *testing.T) {
	r := newRig(t, func(c *node.Config) {
		c.Vault.AllowedAddresses = []string{"https://vault.example:8200"}
		c.Vault.ForbidSkipVerify = true
	})
	r.class("default")
	r.publish(r.pod("a", "web", "default"))
	r.class("elsewhere", "vaultAddress: http://127.0.0.1:1")
	if err := r.refuse(r.pod("b", "web", "elsewhere")); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "spec.parameters.vaultAddress") {
		t.Errorf("an address off the list: %v", err)
	}
	r.class("unverified", `vaultSkipTLSVerify: "true"`)
	if err := r.refuse(r.pod("c", "web", "unverified")); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "spec.parameters.vaultSkipTLSVerify") {
		t.Errorf("a class that skips verification: %v", err)
	}
}
