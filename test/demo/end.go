package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/test/bench/sandbox"
)

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
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		left, err := os.ReadDir(filepath.Join(w.state(), "volumes"))
		if err != nil {
			return fmt.Errorf("looking at the driver's state: %w", err)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the driver's state still holds %q after %s", left, recordsTimeout)
		case <-ticker.C:
		}
	}
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
