// Package login maintains a Vault token: it logs in, renews the token before it expires, and logs
// in again when Vault no longer accepts it.
package login

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

const (
	firstPause = time.Second
	maxPause   = time.Minute
	// renewedEnough is the part of a token's first lifetime that a renewal must give. A shorter one
	// means that the max TTL is near.
	renewedEnough = 0.9
)

// Store makes requests to Vault.
type Store interface {
	Do(ctx context.Context, r store.Request) (store.Answer, error)
}

// Meter counts logins. It must not block.
type Meter interface {
	// Login is one attempt to log in.
	Login(err error)
	// TokenEnds is when the token expires; zero for never, or if unknown.
	TokenEnds(at time.Time)
}

// Session has at most one Vault token. Its methods are safe for concurrent use.
type Session struct {
	config config.Login
	store  Store
	meter  Meter
	log    *slog.Logger

	logins singleflight.Group[struct{}, *token]

	mu      sync.Mutex
	current *token
	refused refusal

	unwrapping sync.Mutex
	wrapped    wrapped
}

// refusal is a login that Vault refused. The session does not retry the same credentials at once.
type refusal struct {
	credentials [sha256.Size]byte
	err         error
	until       time.Time
	pause       time.Duration
}

// token is a Vault token.
type token struct {
	value     secret.String
	born      time.Time
	ttl       time.Duration // 0 means for ever
	expires   time.Time
	renewable bool
	uses      int // 0 means any number
}

// New makes a session. It makes no request, and reads no file.
func New(c config.Login, s Store, meter Meter, log *slog.Logger) *Session {
	return &Session{config: c, store: s, meter: meter, log: log}
}

// Do makes a request with the token. If Vault no longer accepts that, it logs in and repeats the
// request once.
func (s *Session) Do(ctx context.Context, r store.Request) (store.Answer, error) {
	if s.config.Inline {
		return s.doInline(ctx, r)
	}
	t, err := s.token(ctx, nil)
	if err != nil {
		return store.Answer{}, err
	}
	again := r
	again.Body = append([]byte(nil), r.Body...)
	defer clear(again.Body)
	r.Token = t.value
	answer, err := s.store.Do(ctx, r)
	if fault.Of(err) != fault.Denied || err == nil {
		return answer, err
	}
	if store.Says(err, http.StatusForbidden, "invalid token") {
		s.forget(t)
	}
	fresh, loginErr := s.token(ctx, t)
	switch {
	case loginErr != nil:
		return store.Answer{}, fmt.Errorf("%w; and logging in again failed: %w", err, loginErr)
	case fresh == t: // the token is new, so Vault would refuse another one too
		return store.Answer{}, err
	}
	again.Token = fresh.value
	if r.Body == nil {
		again.Body = nil
	}
	return s.store.Do(ctx, again)
}

// minAge is how old a token must be for a refusal to count as its expiry, if Vault does not say
// so. A policy that lacks a path refuses every token.
const minAge = time.Minute

// forget drops a token that Vault does not know any more.
func (s *Session) forget(t *token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == t && s.config.Method != config.TokenFile {
		s.current = nil
	}
}

// token returns the existing token, or that of a new login. It returns one that was denied
// something only while it is young.
func (s *Session) token(ctx context.Context, denied *token) (*token, error) {
	if s.config.Method == config.TokenFile {
		return s.fileToken(denied)
	}
	if t := s.usable(denied); t != nil {
		return t, nil
	}
	t, _, err := s.logins.Do(ctx, struct{}{}, time.Now, time.Time{}, func() (*token, error) {
		if t := s.usable(denied); t != nil {
			return t, nil
		}
		return s.login(ctx)
	})
	return t, err
}

func (s *Session) usable(denied *token) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.current
	switch {
	case t == nil, !t.alive(time.Now()), t.uses < 0:
		return nil
	case t == denied && time.Since(t.born) >= minAge:
		return nil
	case t != denied && t.uses > 0:
		if t.uses--; t.uses == 0 {
			t.uses = -1 // that was the last use
		}
	}
	return t
}

func (t *token) alive(now time.Time) bool { return t.ttl == 0 || now.Before(t.expires) }

// due reports whether two thirds of the token's lifetime have passed, or almost all of it if the
// renewal can wait.
func (t *token) due(now time.Time, wait bool) bool {
	rest := t.ttl / 3
	if wait {
		rest /= 2
	}
	return t.ttl > 0 && !now.Before(t.expires.Add(-rest))
}

// Renew renews the token if that is due, or replaces it. With wait it does so only if the token
// will expire soon. It reports whether it made a request to Vault. If neither works and the token
// is still valid, the session goes on with it, and the error says why.
func (s *Session) Renew(ctx context.Context, wait bool) (asked bool, err error) {
	if s.config.Inline || s.config.Method == config.TokenFile {
		return false, nil
	}
	s.mu.Lock()
	t := s.current
	due := t != nil && t.due(time.Now(), wait)
	s.mu.Unlock()
	if !due {
		return false, nil
	}
	_, _, err = s.logins.Do(ctx, struct{}{}, time.Now, time.Time{}, func() (*token, error) {
		// Vault answers 500 for a token beyond its max TTL.
		if renewed, err := s.renew(ctx, t); renewed || fault.Of(err).Outage() && !store.Says(err, http.StatusInternalServerError, "") {
			return t, err
		}
		return s.login(ctx)
	})
	return true, err
}

// renew requests the token's first TTL.
func (s *Session) renew(ctx context.Context, t *token) (bool, error) {
	if !t.renewable || t.uses != 0 {
		return false, nil
	}
	answer, err := s.store.Do(ctx, store.Request{Operation: "renew", Method: http.MethodPost, Path: "auth/token/renew-self", Body: []byte("{}"), Token: t.value})
	if err != nil {
		s.log.Debug("renewing the Vault token failed", logkey.Error, err)
		return false, fmt.Errorf("renewing the Vault token: %w", err)
	}
	defer answer.Wipe()
	var body struct{ Auth *auth }
	if err := answer.Decode(&body); err != nil || body.Auth == nil {
		return false, err
	}
	ttl := body.Auth.ttl()
	enough := float64(ttl) >= renewedEnough*float64(t.ttl)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !enough {
		t.renewable = false // the next renewal is a login
		return false, nil
	}
	t.expires = time.Now().Add(ttl)
	s.meter.TokenEnds(t.expires)
	s.log.Debug("renewed the Vault token", logkey.TTL, ttl)
	return true, nil
}

// login logs in, unless Vault has just refused the same credentials.
func (s *Session) login(ctx context.Context) (*token, error) {
	c, err := s.credentials(ctx)
	if err != nil {
		s.meter.Login(err)
		return nil, fmt.Errorf("logging in to Vault: %w", err)
	}
	sum := c.sum()
	s.mu.Lock()
	last := s.refused
	s.mu.Unlock()
	if last.err != nil && last.credentials == sum && time.Now().Before(last.until) {
		return nil, last.err
	}
	t, err := s.ask(ctx, c)
	s.meter.Login(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = explain(s.config, err)
		if !fault.Of(err).Outage() {
			pause := firstPause
			if last.err != nil && last.credentials == sum {
				pause = min(2*last.pause, maxPause)
			}
			s.refused = refusal{sum, err, time.Now().Add(pause), pause}
		}
		return nil, err
	}
	s.current, s.refused = t, refusal{}
	s.meter.TokenEnds(t.expires)
	s.log.Info("logged in to Vault", logkey.Method, s.config.Method, logkey.Mount, s.config.Mount, logkey.TTL, t.ttl.String(), logkey.Renewable, t.renewable)
	return t, nil
}

func (s *Session) ask(ctx context.Context, c credentials) (*token, error) {
	answer, err := s.store.Do(ctx, store.Request{
		Operation: "login", Method: http.MethodPost, Path: "auth/" + s.config.Mount + "/login", Body: c.body(), Secrets: c.secrets(),
	})
	if err != nil {
		return nil, err
	}
	defer answer.Wipe()
	var body struct{ Auth *auth }
	if err := answer.Decode(&body); err != nil {
		return nil, err
	}
	if body.Auth == nil || body.Auth.Token == "" {
		return nil, fault.New(fault.BadAnswer, "the answer of %s to the login holds no Vault token", answer.Address)
	}
	now := time.Now()
	t := &token{value: secret.NewString(body.Auth.Token), born: now, ttl: body.Auth.ttl(), renewable: body.Auth.Renewable, uses: body.Auth.Uses}
	t.expires = now.Add(t.ttl)
	if t.ttl == 0 {
		t.expires = time.Time{}
	}
	return t, nil
}

// auth is Vault's description of a token.
type auth struct {
	Token     string  `json:"client_token"`
	Seconds   float64 `json:"lease_duration"`
	Renewable bool    `json:"renewable"`
	Uses      int     `json:"num_uses"`
}

// ttl bounds the Duration from a hostile answer.
func (a auth) ttl() time.Duration {
	const most = 10 * 365 * 24 * 3600
	return time.Duration(min(max(a.Seconds, 0), most) * float64(time.Second))
}

// Close revokes the login's token. The context should be short.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	t := s.current
	s.current = nil
	s.mu.Unlock()
	if s.config.Method == config.TokenFile || t == nil || !t.alive(time.Now()) {
		return nil
	}
	answer, err := s.store.Do(ctx, store.Request{Operation: "revoke", Method: http.MethodPost, Path: "auth/token/revoke-self", Token: t.value})
	answer.Wipe()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("revoking the Vault token: %w", err)
	}
	return nil
}
