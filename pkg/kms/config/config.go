// Package config has the settings of mayfly-kms: from a flag, an environment variable, or one YAML
// file, in this order.
package config

import (
	"log/slog"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// Config is complete and valid after Load.
type Config struct {
	Serve   Serve
	Vault   Vault
	Login   Login
	Transit Transit
	Timing  Timing
}

// Serve has the settings that only serve needs.
type Serve struct {
	// Socket is the path of the unix socket for the API server.
	Socket string
	// SocketGroup may connect besides root; empty for no group.
	SocketGroup string
	// AllowedUIDs may call; empty for every user who can connect.
	AllowedUIDs []uint32
	// HealthAddr and MetricsAddr are empty for none, and may be equal.
	HealthAddr, MetricsAddr string
	// AuditLog is a file, "-" for standard output, empty for none.
	AuditLog  string
	LogFormat string
	LogLevel  slog.Level
	// LocalKey seals seeds with a key in memory that Transit has wrapped.
	LocalKey bool
}

// Vault is how to connect to the servers of one Vault or OpenBao.
type Vault struct {
	// Addresses are tried in turn.
	Addresses []endpoint.Address
	TLS       endpoint.TLS
	Namespace string
}

// Login is how to get a Vault token.
type Login struct {
	Method Method
	// Mount is that of the auth method.
	Mount string
	// Role is for the methods cert, where it may be empty, and jwt.
	Role string

	RoleID       string
	SecretIDFile string
	// SecretIDWrapped says that the file holds a response-wrapping token.
	SecretIDWrapped bool

	JWTFile   string
	TokenFile string

	// Inline sends the login with each request instead of a token, which only OpenBao supports.
	Inline bool
}

// Method is a way to log in.
type Method string

// The methods.
const (
	AppRole   Method = "approle"
	Cert      Method = "cert"
	JWT       Method = "jwt"
	TokenFile Method = "token-file"
)

// Transit is the key.
type Transit struct {
	Mount, Key string
	// ClusterID is bound to all ciphertexts, and can never change.
	ClusterID string
	// Epoch changes the key id of the same key version.
	Epoch string
}

// Timing bounds and paces the requests to Vault.
type Timing struct {
	// CallTimeout is for one call of the API server, all addresses together.
	CallTimeout time.Duration
	// Poll is the time between two reads of the key, and Proof between two round trips.
	Poll, Proof time.Duration
	// OutageLimit is how long the plugin goes on without Vault.
	OutageLimit time.Duration
}
