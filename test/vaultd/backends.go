package main

import (
	"slices"

	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/ssh"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

func secretEngines() map[string]logical.Factory {
	return map[string]logical.Factory{
		"kv":       kv.Factory,
		"pki":      pki.Factory,
		"ssh":      ssh.Factory,
		"transit":  transit.Factory,
		"database": database.Factory,
	}
}

func authMethods() map[string]logical.Factory {
	return map[string]logical.Factory{
		"kubernetes": kubernetes.Factory,
		"jwt":        jwt.Factory,
		"approle":    approle.Factory,
		"cert":       cert.Factory,
	}
}

func auditDevices() map[string]audit.Factory {
	return map[string]audit.Factory{"file": audit.NewFileBackend}
}

func databasePlugins() map[string]func() (any, error) {
	return map[string]func() (any, error){"postgresql-database-plugin": postgresql.New}
}

// registry answers Vault's questions about built-in plugins from the maps
// above. Vault's own registry would link the SDK of every cloud.
type registry struct {
	names     map[consts.PluginType][]string
	databases map[string]func() (any, error)
}

func newRegistry() registry {
	databases := databasePlugins()
	return registry{
		names: map[consts.PluginType][]string{
			consts.PluginTypeSecrets:    names(secretEngines()),
			consts.PluginTypeCredential: names(authMethods()),
			consts.PluginTypeDatabase:   names(databases),
		},
		databases: databases,
	}
}

func names[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for name := range m {
		keys = append(keys, name)
	}
	slices.Sort(keys)
	return keys
}

func (r registry) Keys(kind consts.PluginType) []string {
	return slices.Clone(r.names[kind])
}

func (r registry) Contains(name string, kind consts.PluginType) bool {
	return slices.Contains(r.names[kind], name)
}

// Get makes database plugins only: the core has the factories of the other
// kinds and does not come here for them.
func (r registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	if kind != consts.PluginTypeDatabase {
		return nil, false
	}
	plugin, ok := r.databases[name]
	return plugin, ok
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if r.Contains(name, kind) {
		return consts.Supported, true
	}
	return consts.Unknown, false
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
