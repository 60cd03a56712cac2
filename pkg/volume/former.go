package volume

import (
	"context"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Held is what one provider may hold for a volume.
type Held struct {
	Provider string
	// State is what the provider wants back after a restart.
	State secret.Bytes
}

// held lists all who may hold something for the volume.
func (r *Record) held() []Held {
	if r.Provider == "" {
		return r.Former
	}
	return append(slices.Clone(r.Former), Held{r.Provider, r.ProviderState})
}

// asks is the provider that the next refresh asks: the volume's own or, after
// a failure, the one that was asked besides.
func (r *Record) asks() string {
	if n := len(r.Former); n > 0 && r.Failures > 0 {
		return r.Former[n-1].Provider
	}
	return r.Provider
}

// where is where the work of a provider on a volume goes.
func (c *Config) where(rec *Record, name string) Where {
	w := Where{Store: name, Namespace: rec.Pod.Namespace}
	source, err := c.Providers.Get(name)
	if err != nil {
		return w
	}
	if r, ok := source.(provider.Router); ok {
		if to := r.Destination(rec.ID); to != "" {
			w.Store += " at " + to
		}
	}
	return w
}

func (r *Record) isFormer(name string) bool {
	return slices.ContainsFunc(r.Former, func(h Held) bool { return h.Provider == name })
}

// dropFormer leaves the list as it was to whoever has a copy of the record.
func (r *Record) dropFormer(names ...string) {
	r.Former = slices.DeleteFunc(slices.Clone(r.Former), func(h Held) bool { return slices.Contains(names, h.Provider) })
}

// use makes a provider the volume's own. The one before becomes a former one,
// whose credentials are yet to be ended.
func (r *Record) use(name string) {
	if r.Provider == name {
		return
	}
	all := r.held()
	r.Provider, r.ProviderState = name, secret.Bytes{}
	for _, h := range all {
		if h.Provider == name {
			r.ProviderState = h.State
		}
	}
	r.Former = all
	r.dropFormer(name)
}

// hold notes that a provider is about to be asked for the volume. A new volume
// becomes its own; a live one, whose class was edited, stays with the provider
// that it has until this one has given a payload.
func (p *Publisher) hold(ctx context.Context, rec *Record, name string) {
	switch {
	case rec.Provider == "":
		rec.use(name)
	case rec.Provider == name:
	case rec.isFormer(name): // the end of what it held must not hit what it now gives
		p.releaser.settle(ctx, rec.ID)
		if e := p.find(rec.ID); e != nil && e.rec == rec {
			p.adopt(e)
		}
		fallthrough
	default:
		if !rec.isFormer(name) {
			rec.Former = append(slices.Clone(rec.Former), Held{Provider: name})
		}
	}
}

// keep takes what the providers need after a restart into the record. Whatever
// a pass came to, they may hold more than before, or less.
func (p *Publisher) keep(rec *Record) {
	if state, ok := p.export(rec.ID, rec.Provider); ok {
		rec.ProviderState = state
	}
	rec.Former = slices.Clone(rec.Former)
	for i, h := range rec.Former {
		if state, ok := p.export(rec.ID, h.Provider); ok {
			rec.Former[i].State = state
		}
	}
}

// export answers false where the state that is on record must do: the provider
// keeps none, or has a defect.
func (p *Publisher) export(id, name string) (state secret.Bytes, ok bool) {
	source, err := p.Providers.Get(name)
	if err != nil {
		return secret.Bytes{}, false
	}
	k, ok := source.(provider.Persister)
	if !ok {
		return secret.Bytes{}, false
	}
	defer func() { ok = err == nil }()
	defer fault.Recover(&err, p.Logger, "exporting the state of volume "+id, "provider", name)
	return k.Export(id), true
}

// giveBack gives the providers what an earlier process has kept for them.
func (p *Publisher) giveBack(rec *Record) {
	for _, h := range rec.held() {
		source, err := p.Providers.Get(h.Provider)
		if err != nil {
			continue
		}
		k, ok := source.(provider.Persister)
		if !ok || h.State.Len() == 0 {
			continue
		}
		if err := p.importState(k, rec.ID, h.State); err != nil {
			p.Logger.Warn("the provider does not take its state back; it begins anew", "volume", rec.ID, "provider", h.Provider, "error", err)
		}
	}
}

func (p *Publisher) importState(k provider.Persister, id string, state secret.Bytes) (err error) {
	defer fault.Recover(&err, p.Logger, "importing the state of volume "+id)
	return k.Import(id, state)
}

// formerEnded is told by the releaser that former providers hold nothing any
// longer for a live volume.
func (p *Publisher) formerEnded(id string, names []string) {
	if e := p.find(id); e != nil {
		e.tellEnded(names)
		p.settleNews(e)
	}
}
