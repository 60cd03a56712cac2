// Package config is what an operator may set of mayfly-kms: by a flag, by an
// environment variable, or in one YAML file, in this order.
package config

import (
	"log/slog"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// Config is complete and checked once Load has given it.
type Config struct {
	Serve   Serve
	Vault   Vault
	Login   Login
	Transit Transit
	Timing  Timing
}

// Serve is what concerns this process alone.
type Serve struct {
	// Socket is the path of the unix socket for the API server.
	Socket string
	// SocketGroup may connect beside root; empty for nobody.
	SocketGroup string
	// AllowedUIDs may call; empty for everybody who can connect.
	AllowedUIDs []uint32
	// HealthAddr and MetricsAddr are empty for none, and may be equal.
	HealthAddr, MetricsAddr string
	// AuditLog is a file, "-" for standard output, empty for none.
	AuditLog  string
	LogFormat string
	LogLevel  slog.Level
	// LocalKey seals seeds under a key in memory that Transit has wrapped.
	LocalKey bool
}

// Vault is how to reach the servers of one Vault or OpenBao.
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
	// Role is of the methods cert, where it may be empty, and jwt.
	Role string

	RoleID       string
	SecretIDFile string
	// SecretIDWrapped says that the file holds a response-wrapping token.
	SecretIDWrapped bool

	JWTFile   string
	TokenFile string

	// Inline sends the login along with each request in place of a token. Only
	// OpenBao knows that.
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
	// ClusterID is bound to all that is encrypted, and can never change.
	ClusterID string
	// Epoch makes another key id of the same key version.
	Epoch string
}

// Timing bounds and paces the requests to Vault.
type Timing struct {
	// CallTimeout is for one call of the API server, all addresses together.
	CallTimeout time.Duration
	// Poll is how often the key is looked at, and Proof how often a round trip
	// is made.
	Poll, Proof time.Duration
	// OutageLimit is for how long the plugin goes on without Vault.
	OutageLimit time.Duration
}
