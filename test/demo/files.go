package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

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
