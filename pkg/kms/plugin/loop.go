package plugin

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/localkey"
	"github.com/mayfly-csi/mayfly/pkg/kms/opened"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

const (
	// firstRetry is the pause after the first failed read of the key; it doubles, up to
	// maxRetry.
	firstRetry = 500 * time.Millisecond
	maxRetry   = 10 * time.Second
	// minPause is the shortest time between two reads, whatever calls have shown.
	minPause = 5 * time.Second
	// sayAgain is how often a lasting failure is logged.
	sayAgain = 10 * time.Minute
)

// Run reads the key at intervals until ctx ends, and then wipes all secrets.
func (p *Plugin) Run(ctx context.Context) error {
	defer p.Close()
	for failures := 0; ; {
		began := time.Now()
		err := p.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		p.note(err)
		if failures++; err == nil {
			failures = 0
		}
		if !p.wait(ctx, began, p.pause(failures)) {
			return nil
		}
	}
}

// pause is the time to the next read. Half of a retry's pause is random, so that the nodes of a
// cluster do not all ask a recovering Vault at once.
func (p *Plugin) pause(failures int) time.Duration {
	if failures == 0 {
		return p.timing.Poll
	}
	return backoff.Delay(firstRetry, min(maxRetry, p.timing.Poll), failures-1, mathrand.Float64())
}

// wait also wipes at the outage limit. It reports whether to go on.
func (p *Plugin) wait(ctx context.Context, began time.Time, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	limit := time.NewTimer(p.untilExpired())
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-limit.C:
			p.expire()
			return true
		case <-p.kick:
			timer.Reset(min(pause, max(0, minPause-time.Since(began))))
		}
	}
}

// untilExpired is the time to the outage limit, if nothing changes.
func (p *Plugin) untilExpired() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := p.timing.OutageLimit - time.Since(p.state.good); p.current.id != "" && left >= 0 {
		return left + time.Millisecond
	}
	return p.timing.OutageLimit
}

// expire wipes all secrets after the outage limit, and logs that once.
func (p *Plugin) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.expired(time.Now()) {
		return
	}
	p.wipe()
	if !p.state.wiped {
		p.state.wiped = true
		p.log.Error("the outage limit is over: the seeds in memory are wiped, and the API server's writes fail within 3 minutes",
			logkey.OutageLimit, p.timing.OutageLimit.String(), logkey.KeyID, p.current.id)
	}
}

// errMaybe says that a key is gone, or went back, but only for a moment so far: a standby may not
// have its newest version yet.
var errMaybe = errors.New("looking again before this is believed")

// surelyAmiss is how long a key must be gone, or behind, before the plugin acts on it.
const surelyAmiss = 10 * time.Second

// confirmed returns a Problem once it has lasted for a while. A version with another creation time
// needs no confirmation.
func (p *Plugin) confirmed(err error) error {
	var problem *key.Problem
	if !errors.As(err, &problem) || problem.Kind == key.Replaced {
		return err
	}
	if p.amiss.IsZero() {
		p.amiss = time.Now()
	}
	if time.Since(p.amiss) < min(surelyAmiss, p.timing.Poll) {
		return fault.New(fault.Unavailable, "%w: %w", errMaybe, err)
	}
	return err
}

// look reads the key, checks it, and proves a version that is new, or whose last proof is some time
// ago.
func (p *Plugin) look(ctx context.Context) error {
	p.renew(ctx)
	k, err := p.transit.Key(ctx)
	if err == nil {
		err = p.usable(k)
	}
	if missing := p.history.Missing(); fault.Of(err) == fault.NotFound && missing != nil {
		return p.confirmed(fmt.Errorf("%w: %w", missing, err))
	}
	if err != nil {
		return err
	}
	next, id, err := p.history.Next(k)
	if err != nil {
		return p.confirmed(err)
	}
	p.amiss = time.Time{}
	if p.isAnnounced(id) {
		if time.Since(p.proved) >= p.timing.Proof && time.Since(p.renewed) >= p.apart() {
			if err := p.prove(ctx, next, id); err != nil {
				return err
			}
		}
		p.history.Saw(k)
		p.well(k)
		return nil
	}
	return p.announce(ctx, next, id, k)
}

func (p *Plugin) usable(k transit.Key) error {
	if err := k.Usable(); err != nil {
		return fmt.Errorf("using the key %q: %w", p.name.Key, err)
	}
	return nil
}

// renew renews the login. Renewals and proofs are spread out, so that no minute has many requests.
func (p *Plugin) renew(ctx context.Context) {
	asked, err := p.session.Renew(ctx, time.Since(p.proved) < p.apart())
	if asked {
		p.renewed = time.Now()
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if err != nil && text != p.unrenewed {
		p.log.Warn("the login at Vault could not be renewed; it is used until it expires", logkey.Error, err)
	}
	if asked {
		p.unrenewed = text
	}
}

func (p *Plugin) apart() time.Duration { return 2*p.timing.Poll + time.Second }

// isAnnounced reports whether a key id is the current one, with everything that it needs.
func (p *Plugin) isAnnounced(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current.id == id && (!p.useLocal || p.current.local != nil)
}

// well records a good read.
func (p *Plugin) well(k transit.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = state{good: time.Now(), key: k, mayCreate: p.state.mayCreate}
	p.cache.Below(k.MinDecryption)
}

// ownCorrelation is the id of a request of the plugin's own in Vault's audit log.
func ownCorrelation() string { return "mayfly-kms-" + rand.Text() }

// prove makes a round trip with random bytes.
func (p *Plugin) prove(ctx context.Context, v key.Version, id string) error {
	_, err := p.roundTrip(ctx, key.Proof, v, id, localkey.New(), ownCorrelation())
	return err
}

// roundTrip encrypts bytes with a version of the key, and decrypts them again. It wipes them if
// that fails.
func (p *Plugin) roundTrip(ctx context.Context, purpose key.Purpose, v key.Version, id string, plaintext []byte, correlation string) (string, error) {
	associated := p.name.Associated(purpose, id)
	ciphertext, err := p.transit.Encrypt(ctx, v.Number, plaintext, associated, correlation)
	if err != nil {
		clear(plaintext)
		return "", err
	}
	back, err := p.transit.Decrypt(ctx, ciphertext, associated, correlation)
	defer clear(back)
	if err != nil {
		clear(plaintext)
		return "", err
	}
	if !bytes.Equal(back, plaintext) {
		clear(plaintext)
		return "", fault.New(fault.BadAnswer, "a round trip with version %d of the key gave other bytes back", v.Number)
	}
	p.proved = time.Now()
	return ciphertext, nil
}

// announce makes Status answer with a key id from now on, once a round trip with it has succeeded.
// With a local key, that key makes the round trip.
func (p *Plugin) announce(ctx context.Context, v key.Version, id string, k transit.Key) error {
	next := announced{id: id, version: v, correlation: ownCorrelation()}
	if p.useLocal {
		next.local = localkey.New()
		wrapped, err := p.roundTrip(ctx, key.Local, v, id, next.local, next.correlation)
		if err != nil {
			return fmt.Errorf("proving version %d of the key: %w", v.Number, err)
		}
		next.wrapped = wrapped
	} else if err := p.prove(ctx, v, id); err != nil {
		return fmt.Errorf("proving version %d of the key: %w", v.Number, err)
	}
	p.history.Announce(v, id, k)
	last := p.replace(next)
	p.well(k)
	p.checkPolicy(ctx)
	p.log.Info("announcing a key id", logkey.KeyID, id, logkey.KeyIdHash, key.HashOf(id), logkey.Version, v.Number, logkey.Created, v.Created.UTC().Format(time.RFC3339),
		logkey.LastKeyID, last.id, logkey.LocalKey, p.useLocal, logkey.Correlation, next.correlation)
	return nil
}

// replace makes an announcement the current one. The API server may still ask for what the last
// one's local key has sealed.
func (p *Plugin) replace(next announced) (last announced) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last = p.current
	if last.local != nil {
		p.cache.Put(p.cacheKey(key.Local, last.id, last.wrapped), opened.Value{Plaintext: last.local, Version: last.version.Number, Correlation: last.correlation})
		clear(last.local)
	}
	p.current = next
	return last
}

// checkPolicy logs an error if a deleted key would be created again, empty.
func (p *Plugin) checkPolicy(ctx context.Context) {
	may, err := p.transit.MayCreate(ctx)
	if err != nil {
		p.log.Debug("the policy could not be checked", logkey.Error, err)
		return
	}
	p.mu.Lock()
	p.state.mayCreate = may
	p.mu.Unlock()
	if may {
		p.log.Error("the login's policy grants create on the key's encrypt path, so Vault would silently create a deleted key again: grant only update, and set disable_upsert=true on the mount's config/keys", logkey.Key, p.name.Key)
	}
}

// note records the result of a read, and logs what is new about it.
func (p *Plugin) note(err error) {
	var problem *key.Problem
	if errors.Is(err, errMaybe) || !errors.As(err, &problem) {
		problem = nil
	}
	p.mu.Lock()
	current, good := p.current, p.state.good
	p.state.failure = err
	if err != nil && (problem != nil || p.state.problem == nil) {
		p.state.problem = problem
	}
	p.mu.Unlock()
	p.expire()
	switch {
	case err == nil && p.said != "":
		p.log.Info("Vault and the key work again", logkey.KeyID, current.id)
		p.said = ""
	case err != nil && (err.Error() != p.said || time.Since(p.loggedAt) >= sayAgain):
		p.said, p.loggedAt = err.Error(), time.Now()
		switch {
		case problem != nil:
			p.log.Error("THE KEY IN VAULT IS NOT THE ONE THAT WAS ANNOUNCED; it is not followed, and nothing is encrypted with it", logkey.Error, err, logkey.Problem, problem.Kind, logkey.KeyID, current.id)
		case current.id == "":
			p.log.Warn("no key id can be announced yet; trying again", logkey.Error, err)
		default:
			p.log.Warn("Vault cannot be used; the last verified key id stays valid", logkey.Error, err, logkey.KeyID, current.id,
				logkey.Until, good.Add(p.timing.OutageLimit).UTC().Format(time.RFC3339))
		}
	}
}
