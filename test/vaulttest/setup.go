package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/test/issuer"
)

// Write writes any path as root.
func (s *Server) Write(ctx context.Context, path string, data map[string]any) error {
	if _, err := s.root.Logical().WriteWithContext(ctx, path, data); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	return nil
}

// EnableKubernetesAuth mounts the kubernetes method, for which the issuer verifies every service
// account token by a TokenReview.
func (s *Server) EnableKubernetesAuth(ctx context.Context, mount string, iss *issuer.Issuer) error {
	if err := s.enableAuth(ctx, mount, "kubernetes"); err != nil {
		return err
	}
	return s.Write(ctx, "auth/"+mount+"/config", map[string]any{
		"kubernetes_host":      iss.URL(),
		"token_reviewer_jwt":   iss.ReviewerToken(),
		"disable_local_ca_jwt": true,
	})
}

// EnableJWTAuth mounts the jwt method, which checks service account tokens by
// the issuer's published keys.
func (s *Server) EnableJWTAuth(ctx context.Context, mount string, iss *issuer.Issuer) error {
	if err := s.enableAuth(ctx, mount, "jwt"); err != nil {
		return err
	}
	return s.Write(ctx, "auth/"+mount+"/config", map[string]any{
		"jwks_url":     iss.JWKSURL(),
		"bound_issuer": iss.URL(),
	})
}

func (s *Server) enableAuth(ctx context.Context, mount, method string) error {
	err := s.root.Sys().EnableAuthWithOptionsWithContext(ctx, mount, &api.EnableAuthOptions{Type: method})
	if err != nil {
		return fmt.Errorf("enabling auth method %s at %q: %w", method, mount, err)
	}
	return nil
}

// Role writes a role of the auth method at mount.
func (s *Server) Role(ctx context.Context, mount, name string, role map[string]any) error {
	return s.Write(ctx, "auth/"+mount+"/role/"+name, role)
}

// Policy writes an ACL policy.
func (s *Server) Policy(ctx context.Context, name, rules string) error {
	if err := s.root.Sys().PutPolicyWithContext(ctx, name, rules); err != nil {
		return fmt.Errorf("writing policy %q: %w", name, err)
	}
	return nil
}

// EnableKV mounts a key/value engine of version 1 or 2.
func (s *Server) EnableKV(ctx context.Context, mount string, version int) error {
	err := s.mount(ctx, mount, "kv", map[string]string{"version": fmt.Sprint(version)})
	if err != nil || version == 1 {
		return err
	}
	return s.waitUpgraded(ctx, mount)
}

// waitUpgraded waits until a new version 2 engine answers: it sets itself up
// in the background and refuses requests, with status 400, in the meantime.
func (s *Server) waitUpgraded(ctx context.Context, mount string) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := s.root.Logical().ReadWithContext(ctx, mount+"/config")
		var refused *api.ResponseError
		if !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest ||
			!strings.Contains(err.Error(), "Upgrading") {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q: %w", mount, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func (s *Server) mount(ctx context.Context, path, kind string, options map[string]string) error {
	err := s.root.Sys().MountWithContext(ctx, path, &api.MountInput{Type: kind, Options: options})
	if err != nil {
		return fmt.Errorf("mounting %s at %q: %w", kind, path, err)
	}
	return nil
}

// PutKV1 writes a secret of a version 1 engine.
func (s *Server) PutKV1(ctx context.Context, mount, path string, data map[string]any) error {
	return s.Write(ctx, mount+"/"+path, data)
}

// PutKV2 writes a new version of a secret of a version 2 engine.
func (s *Server) PutKV2(ctx context.Context, mount, path string, data map[string]any) error {
	return s.Write(ctx, mount+"/data/"+path, map[string]any{"data": data})
}

// EnablePKI mounts a certificate engine with a root of its own, and a role that
// issues certificates of any name for up to a day.
func (s *Server) EnablePKI(ctx context.Context, mount, role string) error {
	if err := s.mount(ctx, mount, "pki", nil); err != nil {
		return err
	}
	err := s.Write(ctx, mount+"/root/generate/internal", map[string]any{
		"common_name": "vaulttest root", "ttl": "48h", "key_type": "ec", "key_bits": 256,
	})
	if err != nil {
		return err
	}
	return s.Write(ctx, mount+"/roles/"+role, map[string]any{
		"allow_any_name": true, "max_ttl": "24h", "key_type": "ec", "key_bits": 256,
	})
}

// EnableTransit mounts an encryption engine with one key.
func (s *Server) EnableTransit(ctx context.Context, mount, key string) error {
	if err := s.mount(ctx, mount, "transit", nil); err != nil {
		return err
	}
	return s.Write(ctx, mount+"/keys/"+key, nil)
}

// EnableDatabase mounts a database engine with one PostgreSQL connection; config has the plugin's
// parameters: connection_url, allowed_roles and so on. Write mount/roles/... and
// mount/static-roles/... for its roles.
func (s *Server) EnableDatabase(ctx context.Context, mount, name string, config map[string]any) error {
	if err := s.mount(ctx, mount, "database", nil); err != nil {
		return err
	}
	data := map[string]any{"plugin_name": "postgresql-database-plugin"}
	maps.Copy(data, config)
	return s.Write(ctx, mount+"/config/"+name, data)
}
