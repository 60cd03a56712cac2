package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/helper/namespace"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// credentials are the credentials of a Vault's creator.
type credentials struct {
	rootToken string
	unsealKey string // base64, as sys/unseal takes it
}

func newCore(logs io.Writer) (*vault.Core, error) {
	logger := hclog.New(&hclog.LoggerOptions{Name: "vaultd", Level: hclog.Warn, Output: logs})
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, fmt.Errorf("making storage: %w", err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		StorageType:        "inmem",
		LogicalBackends:    secretEngines(),
		CredentialBackends: authMethods(),
		AuditBackends:      auditDevices(),
		BuiltinRegistry:    newRegistry(),
		Logger:             logger,
		DisableMlock:       true,
	})
	if err != nil {
		return nil, fmt.Errorf("making core: %w", err)
	}
	return core, nil
}

// initialise initialises and unseals a new core.
func initialise(ctx context.Context, core *vault.Core, cfg config) (credentials, error) {
	ctx = namespace.RootContext(ctx)
	result, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
	})
	if err != nil {
		return credentials{}, fmt.Errorf("initialising: %w", err)
	}
	// Unseal wipes its key.
	creds := credentials{
		rootToken: result.RootToken,
		unsealKey: base64.StdEncoding.EncodeToString(result.SecretShares[0]),
	}
	unsealed, err := core.Unseal(result.SecretShares[0])
	if err != nil {
		return credentials{}, fmt.Errorf("unsealing: %w", err)
	}
	if !unsealed {
		return credentials{}, errors.New("unsealing: still sealed")
	}
	if cfg.rootToken != "" {
		if err := replaceRoot(ctx, core, &creds, cfg.rootToken); err != nil {
			return credentials{}, err
		}
	}
	if cfg.auditFile != "" {
		if err := enableAudit(ctx, core, creds.rootToken, cfg.auditFile); err != nil {
			return credentials{}, err
		}
	}
	return creds, nil
}

// replaceRoot exchanges the generated root token for the one asked for.
func replaceRoot(ctx context.Context, core *vault.Core, creds *credentials, want string) error {
	err := update(ctx, core, creds.rootToken, "auth/token/create", map[string]any{
		"id":                want,
		"policies":          []string{"root"},
		"no_parent":         true,
		"no_default_policy": true,
		"display_name":      "root",
	})
	if err != nil {
		return fmt.Errorf("creating the root token: %w", err)
	}
	if err := update(ctx, core, creds.rootToken, "auth/token/revoke-self", nil); err != nil {
		return fmt.Errorf("revoking the first root token: %w", err)
	}
	creds.rootToken = want
	return nil
}

func enableAudit(ctx context.Context, core *vault.Core, token, path string) error {
	err := update(ctx, core, token, "sys/audit/file", map[string]any{
		"type":    "file",
		"options": map[string]any{"file_path": path, "log_raw": "false"},
	})
	if err != nil {
		return fmt.Errorf("enabling the audit device at %q: %w", path, err)
	}
	return nil
}

func update(ctx context.Context, core *vault.Core, token, path string, data map[string]any) error {
	resp, err := core.HandleRequest(ctx, &logical.Request{
		ID:          "vaultd-" + path,
		Operation:   logical.UpdateOperation,
		Path:        path,
		ClientToken: token,
		Data:        data,
	})
	if err != nil {
		return err
	}
	if resp != nil && resp.IsError() {
		return resp.Error()
	}
	return nil
}
