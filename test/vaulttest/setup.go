package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
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

// Bind writes a role of the method at auth/kubernetes: a service account of a namespace logs in with its
// token for the audience "vault", and gets a policy. more has further fields, or other values.
func (s *Server) Bind(ctx context.Context, name, account, namespace, policy string, more map[string]any) error {
	role := map[string]any{
		"bound_service_account_names": account, "bound_service_account_namespaces": namespace, "audience": "vault", "token_policies": policy,
	}
	maps.Copy(role, more)
	return s.Role(ctx, "kubernetes", name, role)
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
	err := testkit.Poll(ctx, 10*time.Millisecond, func() (bool, error) {
		_, err := s.root.Logical().ReadWithContext(ctx, mount+"/config")
		var refused *api.ResponseError
		if errors.As(err, &refused) && refused.StatusCode == http.StatusBadRequest && strings.Contains(err.Error(), "Upgrading") {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("waiting for %q: %w", mount, err)
	}
	return nil
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

// AuditEntry is one line of the audit log. Vault writes two lines for each request, of type request
// and response, with one RequestID; a sealed server writes none.
type AuditEntry struct {
	Type  string
	Time  time.Time
	Error string

	RequestID, Operation, Path string
	// Headers are those that Vault audits, in lower case.
	Headers map[string][]string

	DisplayName string
	Policies    []string
	// Metadata is the auth method's: service_account_name,
	// service_account_namespace, service_account_uid and role of the kubernetes
	// method; role and the claim mappings of the jwt method.
	Metadata map[string]string
}

// auditLine is the part of Vault's format that AuditEntry has.
type auditLine struct {
	Type  string    `json:"type"`
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
	Auth  struct {
		DisplayName string            `json:"display_name"`
		Policies    []string          `json:"policies"`
		Metadata    map[string]string `json:"metadata"`
	} `json:"auth"`
	Request struct {
		ID        string              `json:"id"`
		Operation string              `json:"operation"`
		Path      string              `json:"path"`
		Headers   map[string][]string `json:"headers"`
	} `json:"request"`
}

// Mark is a position in the audit log; the zero value is its beginning.
type Mark struct{ offset int64 }

// Mark is the present end of the audit log. A line grows page by page while it is written, and an
// unfinished one comes after the mark.
func (s *Server) Mark() (Mark, error) {
	file, err := os.Open(s.AuditFile)
	if err != nil {
		return Mark{}, fmt.Errorf("opening the audit log: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Mark{}, fmt.Errorf("looking at the audit log: %w", err)
	}
	end := info.Size()
	for end > 0 {
		data := make([]byte, min(end, 4<<10))
		if _, err := file.ReadAt(data, end-int64(len(data))); err != nil {
			return Mark{}, fmt.Errorf("reading the audit log: %w", err)
		}
		last := bytes.LastIndexByte(data, '\n')
		if last >= 0 {
			return Mark{end - int64(len(data)-last-1)}, nil
		}
		end -= int64(len(data))
	}
	return Mark{}, nil
}

// AuditEntries reads the whole audit log.
func (s *Server) AuditEntries(ctx context.Context) ([]AuditEntry, error) {
	return s.AuditEntriesSince(ctx, Mark{})
}

// AuditEntriesSince reads the audit log from a mark on. Vault writes before it
// answers, so every answered request is there.
func (s *Server) AuditEntriesSince(ctx context.Context, since Mark) ([]AuditEntry, error) {
	file, err := os.Open(s.AuditFile)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.NewSectionReader(file, since.offset, 1<<62))
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	// A line without its end is still being written.
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var entries []AuditEntry
	for line := range bytes.Lines(data) {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		entry, err := parseAudit(line)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func parseAudit(line []byte) (AuditEntry, error) {
	var l auditLine
	if err := json.Unmarshal(line, &l); err != nil {
		return AuditEntry{}, fmt.Errorf("parsing audit line %.80q: %w", line, err)
	}
	return AuditEntry{
		Type: l.Type, Time: l.Time, Error: l.Error,
		RequestID: l.Request.ID, Operation: l.Request.Operation, Path: l.Request.Path, Headers: l.Request.Headers,
		DisplayName: l.Auth.DisplayName, Policies: l.Auth.Policies, Metadata: l.Auth.Metadata,
	}, nil
}

// Counts is a number of requests for each path, without "v1/".
type Counts map[string]int

// CountRequests counts the requests that Vault took since a mark, refused ones
// too, by path.
func (s *Server) CountRequests(ctx context.Context, since Mark) (Counts, error) {
	entries, err := s.AuditEntriesSince(ctx, since)
	if err != nil {
		return nil, err
	}
	counts := Counts{}
	seen := map[string]bool{}
	for _, entry := range entries {
		if !seen[entry.RequestID] {
			seen[entry.RequestID] = true
			counts[entry.Path]++
		}
	}
	return counts, nil
}

// Under sums the counts of all paths with a prefix; "" sums all.
func (c Counts) Under(prefix string) int {
	total := 0
	for path, n := range c {
		if strings.HasPrefix(path, prefix) {
			total += n
		}
	}
	return total
}
