package provider

import "github.com/mayfly-csi/mayfly/pkg/stores"

// Watcher is a Provider that tells how its stores do. It asks nobody.
type Watcher interface {
	// Stores are the servers that it has connections for, in no order.
	Stores() []stores.Store
}
