package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
)

// storeTimeout bounds one request to a store.
const storeTimeout = 10 * time.Second

// store asks a Vault with the user's own login.
type store struct{ client *api.Client }

// newStore uses the user's own settings, as the program vault does: from the environment, and the
// token also from its file.
func (c *command) newStore(g access.Grant) (*store, error) {
	config := api.DefaultConfig() // reads VAULT_*
	if config.Error != nil {
		return nil, fmt.Errorf("reading VAULT_*: %w", config.Error)
	}
	config.MaxRetries, config.Timeout = 0, storeTimeout
	if c.streams.Getenv(api.EnvVaultAddress) == "" {
		config.Address = g.Address
	}
	if config.Address == "" {
		return nil, errors.New("there is no server address: set VAULT_ADDR")
	}
	if c.caCert != "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: c.caCert}); err != nil {
			return nil, fmt.Errorf("--store-ca-cert: %w", err)
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	token := client.Token()
	if home, err := os.UserHomeDir(); err == nil && token == "" {
		text, _ := os.ReadFile(filepath.Join(home, ".vault-token"))
		token = strings.TrimSpace(string(text))
	}
	if token == "" {
		return nil, errors.New("there is no Vault token: set VAULT_TOKEN, or run vault login")
	}
	client.SetToken(token)
	if g.Namespace != "" {
		client.SetNamespace(g.Namespace)
	}
	return &store{client}, nil
}

// read returns the data at a path; nil if there is none.
func (s *store) read(ctx context.Context, path string) (map[string]any, error) {
	secret, err := s.client.Logical().ReadWithContext(ctx, path)
	var refused *api.ResponseError
	switch {
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return nil, nil
	case errors.As(err, &refused):
		return nil, fmt.Errorf("%s answered %d at %s: %s", s.client.Address(), refused.StatusCode, path, strings.Join(refused.Errors, "; "))
	case err != nil:
		return nil, fmt.Errorf("asking %s for %s: %w", s.client.Address(), path, err)
	case secret == nil:
		return nil, nil
	}
	return secret.Data, nil
}

// text and words read fields of an answer.
func text(data map[string]any, key string) string {
	s, _ := data[key].(string)
	return s
}

func words(data map[string]any, key string) []string {
	switch v := data[key].(type) {
	case []any:
		list := make([]string, 0, len(v))
		for _, one := range v {
			list = append(list, fmt.Sprint(one))
		}
		return list
	case string:
		if v != "" {
			return []string{v}
		}
	}
	return nil
}
