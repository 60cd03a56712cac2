// Package stores describes the health of the servers of secret stores, for people. It imports
// nothing, so that every package with connections can use it.
package stores

import "time"

// Store is the health of one server, as recent requests to it showed.
type Store struct {
	Address string
	// Used is when a volume last needed it.
	Used time.Time
	// Open are the open circuits, at most MaxCircuits of them, and Circuits is their number.
	Open     []Circuit
	Circuits int
}

// MaxCircuits bounds how many circuits of one store are listed.
const MaxCircuits = 50

// Scope says which requests a circuit blocks.
type Scope string

// The scopes, from the widest.
const (
	WholeServer    Scope = "Server"
	StoreNamespace Scope = "StoreNamespace" // of the server, for all tenants
	Tenant         Scope = "Tenant"         // all requests of one tenant to a store's namespace
	FailedPaths    Scope = "FailedPaths"    // the paths that failed, of one tenant, or of all if the circuit names none
	OnePath        Scope = "Path"           // of one tenant
)

// Scopes returns all of them, in this order.
func Scopes() []Scope { return []Scope{WholeServer, StoreNamespace, Tenant, FailedPaths, OnePath} }

// Circuit blocks requests after failures, and lets one through once in a while.
type Circuit struct {
	Scope Scope
	// Namespace is the store's namespace, Tenant the Kubernetes namespace of the pods, and Path the
	// path in the store.
	Namespace, Tenant, Path string
	Failures                int
	Since                   time.Time
	// ProbeAt is when the circuit lets the next request through.
	ProbeAt time.Time
	// Last is the last failure.
	Last string
}
