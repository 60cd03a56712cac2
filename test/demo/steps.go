package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/test/bench/sandbox"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

func start(ctx context.Context, s *screen, w *world) error {
	if err := w.startVault(ctx); err != nil {
		return err
	}
	health, err := w.vault.Client().Sys().HealthWithContext(ctx)
	if err != nil {
		return fmt.Errorf("asking Vault for its version: %w", err)
	}
	kind := "built from its source, in memory"
	if w.vault.Installed {
		kind = "the one installed here, in dev mode"
	}
	s.say("Vault %s (%s) serves %s.", health.Version, kind, w.vault.Address)
	if err := w.startDriver(ctx); err != nil {
		return err
	}
	s.say("mayfly-node serves %s.", w.socket())
	s.say("Both run as %s, so that nothing reaches the machine itself.", place())
	s.proven("the driver was ready after %s", short(w.driver.Ready))
	w.web = w.pod("web-0", "web", "6f1a6a0e-5d0b-4c39-9d0a-b5b3f2d7c001")
	w.batch = w.pod("batch-0", "batch", "6f1a6a0e-5d0b-4c39-9d0a-b5b3f2d7c002")
	return nil
}

// place describes the environment of this process.
func place() string {
	if ordinary() {
		return "an ordinary user in a user and mount namespace"
	}
	return "root in a mount namespace"
}

// ordinary reports whether root here is an ordinary user outside.
func ordinary() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(data)), " ") != "0 0 4294967295"
}

func showClass(_ context.Context, s *screen, w *world) error {
	s.say("A SecretProviderClass as the Secrets Store CSI driver knows it. Here it comes from a")
	s.say("directory (--class-dir); in a cluster it comes from the API server.")
	s.ran("cat classes/%s.yaml", className)
	s.block(w.manifest())
	return nil
}

func publish(ctx context.Context, s *screen, w *world) (err error) {
	s.say("It passes the pod's own service account token. The driver has no other credential.")
	if w.published, err = w.vault.Mark(); err != nil {
		return err
	}
	began := time.Now()
	if err := w.kubelet.Publish(ctx, w.web); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	took := time.Since(began)
	target := w.kubelet.Target(w.web)
	m, err := findMount(ctx, s, target)
	if err != nil {
		return err
	}
	s.block(m.table())
	if err := m.check(target); err != nil {
		return err
	}
	s.proven("published in %s: logged in, read, mounted, written", short(took))
	s.proven("a tmpfs of its own, limited in size, on the node nosuid, nodev and noexec%s", m.swap())
	return nil
}

// loginPath is where pods log in, as the audit log names it.
const loginPath = "auth/kubernetes/login"

func showFiles(_ context.Context, s *screen, w *world) error {
	seen, err := w.kubelet.Read(w.web)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(seen)) {
		info, err := os.Stat(filepath.Join(w.kubelet.Target(w.web), path))
		if err != nil {
			return err
		}
		s.block(fmt.Sprintf("%s  %-12s %s", info.Mode(), path, seen[path]))
	}
	if err := w.checkFiles(oldPassword); err != nil {
		return err
	}
	s.proven("the files, contents and modes are exactly those that the class asks for")
	return nil
}

// checkFiles compares the volume with the class.
func (w *world) checkFiles(password string) error {
	seen, err := w.kubelet.Read(w.web)
	if err != nil {
		return err
	}
	want := files(password)
	if len(seen) != len(want) {
		return fmt.Errorf("the volume holds %d files, not %d: %q", len(seen), len(want), slices.Sorted(maps.Keys(seen)))
	}
	for _, f := range want {
		info, err := os.Stat(filepath.Join(w.kubelet.Target(w.web), f.path))
		switch {
		case err != nil:
			return err
		case seen[f.path] != f.contents:
			return fmt.Errorf("file %q holds %q, not %q", f.path, seen[f.path], f.contents)
		case info.Mode() != f.mode:
			return fmt.Errorf("file %q has mode %s, not %s", f.path, info.Mode(), f.mode)
		}
	}
	return nil
}

func showAudit(ctx context.Context, s *screen, w *world) error {
	entries, err := w.answered(ctx, w.published)
	if err != nil {
		return err
	}
	paths := map[string]int{}
	for _, e := range entries {
		s.block(fmt.Sprintf("%s  %-6s %-24s by service account %s/%s", clock(e.Time), e.Operation, e.Path,
			e.Metadata["service_account_namespace"], e.Metadata["service_account_name"]))
		paths[e.Path]++
		if e.Metadata["service_account_namespace"] != namespace || e.Metadata["service_account_name"] != w.web.ServiceAccount {
			return fmt.Errorf("%q was used by %v, not by service account %s/%s", e.Path, e.Metadata, namespace, w.web.ServiceAccount)
		}
	}
	for _, path := range []string{loginPath, "secret/data/web/db", "secret/data/web/api"} {
		if paths[path] == 0 {
			return fmt.Errorf("the audit log does not know of %q: %v", path, paths)
		}
	}
	s.proven("Vault saw the pod's service account, and nobody else")
	return nil
}

// answered returns Vault's answers to pods since a mark.
func (w *world) answered(ctx context.Context, since vaulttest.Mark) ([]vaulttest.AuditEntry, error) {
	all, err := w.vault.AuditEntriesSince(ctx, since)
	return slices.DeleteFunc(all, func(e vaulttest.AuditEntry) bool {
		return e.Type != "response" || e.DisplayName == "root" ||
			!strings.HasPrefix(e.Path, "secret/") && e.Path != loginPath
	}), err
}

const (
	// rotateTimeout is generous: the class's interval is one second.
	rotateTimeout = 20 * time.Second
	readEvery     = time.Millisecond
)

func rotate(ctx context.Context, s *screen, w *world) error {
	root, err := os.OpenRoot(w.kubelet.Target(w.web))
	if err != nil {
		return fmt.Errorf("opening the volume: %w", err)
	}
	defer func() { _ = root.Close() }()
	mark, err := w.vault.Mark()
	if err != nil {
		return err
	}
	s.say("A reader opens the volume's directory once, and reads db/password every millisecond.")
	reading, stop := context.WithTimeoutCause(ctx, rotateTimeout, fmt.Errorf("the file did not change within %s", rotateTimeout))
	defer stop()
	result := make(chan readerResult, 1)
	go func() { result <- readUntilNew(reading, root) }()
	if err := w.setPassword(ctx, newPassword); err != nil {
		return fmt.Errorf("writing to Vault: %w", err)
	}
	wrote := time.Now()
	s.block(fmt.Sprintf("%s  Vault holds the new password", clock(wrote)))
	r := <-result
	if r.err != nil {
		return r.err
	}
	s.block(fmt.Sprintf("%s  the file holds it: %s", clock(r.changed), newPassword))
	return w.checkRotation(ctx, s, root, mark, wrote, r)
}

func (w *world) checkRotation(ctx context.Context, s *screen, root *os.Root, mark vaulttest.Mark, wrote time.Time, r readerResult) error {
	opened, err := root.Stat(".")
	if err != nil {
		return err
	}
	now, err := os.Stat(w.kubelet.Target(w.web))
	if err != nil {
		return err
	}
	if !os.SameFile(opened, now) {
		return errors.New("the volume's directory is another one than before")
	}
	if err := w.checkFiles(newPassword); err != nil {
		return err
	}
	entries, err := w.answered(ctx, mark)
	if err != nil {
		return err
	}
	n := countKinds(entries)
	s.proven("changed in place %s after the write (refreshInterval: 1s), in the same directory", short(max(r.changed.Sub(wrote), 0)))
	s.proven("%d reads meanwhile found the old password or the new one, and never anything else", r.reads)
	s.proven("requests to Vault for it: version checks %d, reads %d, logins %d", n.checks, n.reads, n.logins)
	return nil
}

// kinds are numbers of requests.
type kinds struct{ logins, checks, reads int }

// countKinds tells the cheap question for a secret's version from its reading.
func countKinds(entries []vaulttest.AuditEntry) (n kinds) {
	for _, e := range entries {
		switch {
		case e.Path == loginPath:
			n.logins++
		case strings.HasPrefix(e.Path, "secret/metadata/"):
			n.checks++
		default:
			n.reads++
		}
	}
	return n
}

// readerResult is what a reader of the volume saw.
type readerResult struct {
	reads   int
	changed time.Time
	err     error
}

// readUntilNew reads as an application does that keeps its directory open.
func readUntilNew(ctx context.Context, root *os.Root) (r readerResult) {
	r.err = testkit.Poll(ctx, readEvery, func() (bool, error) {
		contents, err := fs.ReadFile(root.FS(), filepath.Join("db", "password"))
		r.reads++
		switch {
		case err != nil:
			return false, fmt.Errorf("reading the file during the rotation: %w", err)
		case string(contents) == newPassword:
			r.changed = time.Now()
			return true, nil
		case string(contents) != oldPassword:
			return false, fmt.Errorf("during the rotation the file held %q", contents)
		}
		return false, nil
	})
	return r
}

func deny(ctx context.Context, s *screen, w *world) error {
	s.say("Pod %s/%s runs as service account %s, to which Vault's role is not bound.", namespace, w.batch.Name, w.batch.ServiceAccount)
	err := w.kubelet.Publish(ctx, w.batch)
	if err == nil {
		return errors.New("the pod was let in")
	}
	s.ran("kubectl -n %s describe pod %s", namespace, w.batch.Name)
	s.block(fmt.Sprintf("Warning  FailedMount  kubelet  MountVolume.SetUp failed for volume %q : %v", w.batch.Volume, err))
	if code := status.Code(err); code != codes.PermissionDenied {
		return fmt.Errorf("the code is %s, not %s", code, codes.PermissionDenied)
	}
	for _, words := range []string{"failed to mount secrets store objects for pod shop/batch-0", "service account name not authorized"} {
		if !strings.Contains(err.Error(), words) {
			return fmt.Errorf("the reason does not say %q", words)
		}
	}
	if _, err := findMountQuietly(w.kubelet.Target(w.batch)); err == nil {
		return errors.New("the denied pod has a mount")
	}
	if err := w.checkFiles(newPassword); err != nil {
		return fmt.Errorf("the other pod's volume suffered: %w", err)
	}
	s.proven("the reason is Vault's own, and it is in the pod's events")
	s.proven("nothing was mounted for it, and shop/web-0 keeps its files")
	return nil
}

func findMountQuietly(target string) (mountFacts, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mountFacts{}, err
	}
	return parseMountInfo(string(data), target)
}

// recordsTimeout bounds revoking the credentials, which the driver does after it has answered
// kubelet.
const recordsTimeout = 10 * time.Second

func unpublish(ctx context.Context, s *screen, w *world) error {
	mark, err := w.vault.Mark()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := w.kubelet.Unpublish(ctx, w.web); err != nil {
		return fmt.Errorf("unpublishing: %w", err)
	}
	took := time.Since(began)
	if err := w.kubelet.Unpublish(ctx, w.batch); err != nil {
		return fmt.Errorf("unpublishing what was never published: %w", err)
	}
	if err := w.nothingPublished(); err != nil {
		return err
	}
	s.proven("unpublished in %s: nothing is mounted, and the pod's directory is empty", short(took))
	if err := w.recordsGone(ctx); err != nil {
		return err
	}
	s.proven("the driver has forgotten the volume")
	counts, err := w.vault.CountRequests(ctx, mark)
	if err != nil {
		return err
	}
	if counts["auth/token/revoke-self"] > 0 {
		s.proven("the pod's Vault token is revoked")
	}
	return w.stopDriver(s)
}

// nothingPublished looks for mounts and files in the pods' directories.
func (w *world) nothingPublished() error {
	mounts, err := sandbox.MountsBelow(w.kubelet.Root)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("still mounted: %q", mounts)
	}
	left, err := os.ReadDir(filepath.Join(w.kubelet.Root, "pods"))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("still there: %q", left)
	}
	return nil
}

// recordsGone waits until the driver's state has no volume.
func (w *world) recordsGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recordsTimeout)
	defer cancel()
	var left []os.DirEntry
	err := testkit.Poll(ctx, 10*time.Millisecond, func() (_ bool, err error) {
		if left, err = os.ReadDir(filepath.Join(w.state(), "volumes")); err != nil {
			return false, fmt.Errorf("looking at the driver's state: %w", err)
		}
		return len(left) == 0, nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the driver's state still holds %q after %s", left, recordsTimeout)
	}
	return err
}

// stopDriver stops the driver, whose state outlives it on purpose, and removes the state as a
// reboot would.
func (w *world) stopDriver(s *screen) error {
	if err := w.driver.Stop(); err != nil {
		return err
	}
	if err := syscall.Unmount(w.state(), 0); err != nil {
		return fmt.Errorf("unmounting the driver's state: %w", err)
	}
	mounts, err := sandbox.MountsBelow(w.dir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("still mounted: %q", mounts)
	}
	s.proven("the driver has stopped, and no mount is left")
	return nil
}
