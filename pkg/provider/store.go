package provider

import "github.com/mayfly-csi/mayfly/pkg/stores"

// Watcher is a Provider that tells how its stores do. It asks nobody.
type Watcher interface {
	// Stores are the servers that it has connections for, in no order.
	Stores() []stores.Store
}

// Listed is one object of a class, as far as the class alone tells.
type Listed struct {
	// ID is that of its Version.
	ID string `json:"id"`
	// From is what the store is asked for, and Key what is taken of the answer;
	// empty for all of it.
	From string `json:"from"`
	Key  string `json:"key,omitempty"`
}
