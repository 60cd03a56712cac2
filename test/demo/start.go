package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
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
