package provider

import "github.com/mayfly-csi/mayfly/pkg/stores"

// Watcher is a Provider that reports the state of its stores, without a request.
type Watcher interface {
	// Stores returns the servers that the provider has connections for, in no order.
	Stores() []stores.Store
}

// Listed is one object of a class, as the class describes it.
type Listed struct {
	// ID is that of its Version.
	ID string `json:"id"`
	// From is the path of the request, and Key the key of the answer; empty for all of
	// it.
	From string `json:"from"`
	Key  string `json:"key,omitempty"`
}
