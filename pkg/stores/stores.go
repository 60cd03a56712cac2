// Package stores is how the servers of secret stores do, for people. It imports
// nothing, so that whatever has connections can tell.
package stores

import "time"

// Store is how one server does, as far as requests to it have shown.
type Store struct {
	Address string
	// Used is when a volume last needed it.
	Used time.Time
	// Open are circuits that hold requests up, at most MostCircuits of them, and
	// Circuits is how many there are.
	Open     []Circuit
	Circuits int
}

// MostCircuits bounds how many of one store are told.
const MostCircuits = 50

// Scope is how much a circuit holds up.
type Scope string

// The scopes, from the widest.
const (
	WholeServer    Scope = "Server"
	StoreNamespace Scope = "StoreNamespace" // of the server, for all tenants
	Tenant         Scope = "Tenant"         // all that one tenant asks of a store's namespace
	FailedPaths    Scope = "FailedPaths"    // those that failed, of a tenant or of all where none is named
	OnePath        Scope = "Path"           // of one tenant
)

// Scopes are all of them, in this order.
func Scopes() []Scope { return []Scope{WholeServer, StoreNamespace, Tenant, FailedPaths, OnePath} }

// Circuit is what is left alone after failures, and tried once in a while.
type Circuit struct {
	Scope Scope
	// Namespace is the store's, Tenant the Kubernetes namespace of the pods, and
	// Path what is asked for.
	Namespace, Tenant, Path string
	Failures                int
	Since                   time.Time
	// ProbeAt is when one request passes again.
	ProbeAt time.Time
	// Last is the last failure.
	Last string
}
