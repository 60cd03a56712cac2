package volume

import (
	"context"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Providers finds the provider of a class.
type Providers interface {
	Get(name string) (provider.Provider, error)
}

// optional returns a provider as one of the optional interfaces of package provider. It
// returns false if the provider is not on this node, or does not implement the interface.
func optional[T any](c *Config, name string) (T, bool) {
	source, err := c.Providers.Get(name)
	t, ok := source.(T)
	return t, ok && err == nil
}

// whereOf returns the store and namespace by which the work of a volume is scheduled.
func (c *Config) whereOf(rec *Record) schedule.Where {
	w := schedule.Where{Store: rec.Provider, Namespace: rec.Pod.Namespace}
	if r, ok := optional[provider.Router](c, rec.Provider); ok {
		if to := r.Destination(rec.ID); to != "" {
			w.Store += " at " + to
		}
	}
	return w
}

// answeredBy returns the second address of a volume's store if that answered last, else "".
func (c *Config) answeredBy(id, name string) string {
	if f, ok := optional[provider.Fallback](c, name); ok {
		return f.AnsweredBy(id)
	}
	return ""
}

// exportState puts the provider's state into the record. A failed run may have changed
// it too. The record keeps the state that it has if the provider has none, or panics.
func (c *Config) exportState(rec *Record) {
	if state, ok := c.export(rec.ID, rec.Provider); ok {
		rec.ProviderState = state
	}
}

func (c *Config) export(id, name string) (state secret.Bytes, ok bool) {
	p, ok := optional[provider.Persister](c, name)
	if !ok {
		return secret.Bytes{}, false
	}
	var err error
	defer func() { ok = err == nil }()
	defer fault.Recover(&err, c.Logger, "exporting the state of volume "+id, logkey.Provider, name)
	return p.Export(id), true
}

// importState gives the provider the state that an earlier process recorded.
func (c *Config) importState(rec *Record) {
	p, ok := optional[provider.Persister](c, rec.Provider)
	if !ok || rec.ProviderState.Len() == 0 {
		return
	}
	var err error
	func() {
		defer fault.Recover(&err, c.Logger, "importing the state of volume "+rec.ID)
		err = p.Import(rec.ID, rec.ProviderState)
	}()
	if err != nil {
		c.Logger.Warn("the provider cannot restore its state; it starts without it", logkey.Volume, rec.ID, logkey.Provider, rec.Provider, logkey.Error, err)
	}
}

// release has the provider revoke a volume's credentials. A provider that is not on
// this node any more has none.
func (c *Config) release(ctx context.Context, rec *Record) (err error) {
	defer fault.Recover(&err, c.Logger, "releasing volume "+rec.ID, logkey.Provider, rec.Provider)
	r, ok := optional[provider.Releaser](c, rec.Provider)
	if !ok {
		return nil
	}
	if err := r.Release(ctx, rec.ID); err != nil {
		return fmt.Errorf("provider %s: %w", rec.Provider, err)
	}
	return nil
}
