// Package plugin decides what a KMS v2 plugin answers: which key id is announced, how seeds are
// encrypted and decrypted, and what works while Vault is unavailable.
//
// One loop reads the key in Vault. Status is answered from the last read. A key id is announced
// once a round trip with that version of the key has succeeded, and stays until a newer version has
// passed one. It also stays while Vault is unavailable, up to the outage limit. Then the plugin
// wipes all secrets from memory, and Status fails, which ends the API server's writes.
package plugin

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/opened"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// Transit is the key in Vault.
type Transit interface {
	Key(ctx context.Context) (transit.Key, error)
	Encrypt(ctx context.Context, version int, plaintext, associated []byte, correlation string) (string, error)
	Decrypt(ctx context.Context, ciphertext string, associated []byte, correlation string) ([]byte, error)
	// MayCreate reports whether the login could create the key by encrypting.
	MayCreate(ctx context.Context) (bool, error)
}

// Session is the login at Vault.
type Session interface {
	// Renew renews the login if that is due, with wait only if that is urgent. It reports whether
	// it made a request to Vault.
	Renew(ctx context.Context, wait bool) (asked bool, err error)
}

// maxOpened bounds the decrypted values in memory, of some hundred bytes each. A cluster has under
// 50 seeds.
const maxOpened = 1024

// Plugin is one key of one cluster.
type Plugin struct {
	name     key.Name
	timing   config.Timing
	useLocal bool
	transit  Transit
	session  Session
	log      *slog.Logger

	cache   *opened.Cache
	flights singleflight.Group[opened.Key, struct{}]
	refused refusals
	kick    chan struct{}

	// Only the loop uses these.
	history *key.History
	proved  time.Time
	renewed time.Time
	// unrenewed is the last failure of a renewal, logged once.
	unrenewed string
	amiss     time.Time // when a read first found the key gone, or behind
	said      string
	loggedAt  time.Time

	mu      sync.Mutex
	current announced
	state   state
}

// announced is what Status answers with.
type announced struct {
	id      string
	version key.Version
	// local seals seeds, if that is enabled, and wrapped is local encrypted by Transit. Both are
	// empty after the outage limit.
	local   []byte
	wrapped string
	// correlation is the round trip's id in Vault's audit log.
	correlation string
}

// state is the result of the last read of Vault.
type state struct {
	good    time.Time // when all was well
	failure error     // why it is not; nil for well
	problem *key.Problem
	key     transit.Key
	wiped   bool // the outage limit has passed
	// mayCreate stays from one read to the next.
	mayCreate bool
}

// New makes a plugin that has announced nothing. It starts nothing.
func New(c config.Config, t Transit, s Session, log *slog.Logger) *Plugin {
	name := key.Name{ClusterID: c.Transit.ClusterID, Key: c.Transit.Key, Epoch: c.Transit.Epoch}
	return &Plugin{
		name: name, timing: c.Timing, useLocal: c.Serve.LocalKey, transit: t, session: s, log: log,
		cache: opened.New(maxOpened), kick: make(chan struct{}, 1), history: key.NewHistory(name),
	}
}

// Condition is the plugin's state for Status, health and metrics.
type Condition struct {
	// ID is the announced key id, Version the version of the Transit key. They are empty before the
	// first proof.
	ID      string
	Version int
	// Healthy says that Vault was usable lately, and the key is the announced one.
	Healthy bool
	// Expired says that the outage limit has passed, so that ID is no longer valid.
	Expired bool
	// Good is when all was last well; zero for never.
	Good time.Time
	// Failure is of the last read; nil if it succeeded.
	Failure error
	Problem *key.Problem
	// Local says that seeds are sealed in memory.
	Local  bool
	Opened int
	Key    transit.Key
	// MayCreate says that the policy grants create on encrypt, which it must not.
	MayCreate bool
}

// grace is how long Status hides a failing Vault: an API server whose plugin is not healthy is not
// ready, and that would happen to all of them at once.
func (p *Plugin) grace() time.Duration { return 2*p.timing.Poll + p.timing.CallTimeout }

// Condition reads memory only.
func (p *Plugin) Condition() Condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := Condition{
		ID: p.current.id, Version: p.current.version.Number, Good: p.state.good, Failure: p.state.failure, Problem: p.state.problem,
		Local: p.current.local != nil, Opened: p.cache.Len(), Key: p.state.key, Expired: p.expired(time.Now()), MayCreate: p.state.mayCreate,
	}
	c.Healthy = c.ID != "" && c.Problem == nil && !c.Expired && time.Since(c.Good) <= p.grace()
	return c
}

// expired reports whether the outage limit has passed; the caller holds the mutex.
func (p *Plugin) expired(now time.Time) bool {
	return p.current.id != "" && now.Sub(p.state.good) > p.timing.OutageLimit
}

// Safe is in the chain of an error whose text may be shown to anyone who can reach the API server:
// it names no server, path or mount.
type Safe struct{ text string }

// Error implements error.
func (s *Safe) Error() string { return s.text }

const (
	nothingProven = "no version of the key has passed a round trip yet"
	limitOver     = "Vault could not be used for longer than the outage limit"
)

// Status returns the key id, and a text for the API server's health check, which is "ok" or says
// why not without naming servers.
func (p *Plugin) Status() (id, healthz string, err error) {
	c := p.Condition()
	switch {
	case c.ID == "":
		return "", "", unavailable(nothingProven, c.Failure)
	case c.Expired:
		return "", "", unavailable(limitOver, c.Failure)
	case c.Problem != nil:
		return c.ID, fmt.Sprintf("the Transit key was %s; see the log of mayfly-kms", problemWords(c.Problem.Kind)), nil
	case !c.Healthy:
		return c.ID, because("Vault cannot be used since "+time.Since(c.Good).Round(time.Second).String(), c.Failure), nil
	}
	return c.ID, "ok", nil
}

func problemWords(k key.Kind) string {
	switch k {
	case key.Replaced:
		return "deleted and made again"
	case key.Gone:
		return "deleted"
	}
	return "put back to an earlier state"
}

// because adds the class of a failure, and nothing that names servers.
func because(what string, failure error) string {
	if failure == nil {
		return what
	}
	return fmt.Sprintf("%s (%s); see the log of mayfly-kms", what, fault.Of(failure))
}

func unavailable(what string, failure error) error {
	return fault.New(fault.Unavailable, "%w", &Safe{because(what, failure)})
}

// Close wipes all secrets.
func (p *Plugin) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}

// wipe removes all secrets and leaves the key id; the caller holds the mutex.
func (p *Plugin) wipe() {
	clear(p.current.local)
	p.current.local, p.current.wrapped = nil, ""
	p.cache.Wipe()
}

// lookSoon makes the loop read the key soon: a call has shown that something changed.
func (p *Plugin) lookSoon() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}
