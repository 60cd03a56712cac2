package akeyless

import (
	"encoding/json"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// usualLife is taken where a login does not say how long its token lives.
const usualLife = 14 * time.Minute

// token is an Akeyless token. It is replaced, never changed.
type token struct {
	value   secret.String
	born    time.Time
	due     time.Time // when to log in anew
	expires time.Time
}

// Born implements session.Token.
func (t *token) Born() time.Time { return t.born }

// Ends implements session.Token.
func (t *token) Ends() time.Time { return t.expires }

// authAnswer is what /auth says.
type authAnswer struct {
	Token string `json:"token"`
	Creds struct {
		Expiry json.Number `json:"expiry"`
		MFA    string      `json:"required_mfa"`
	} `json:"creds"`
	Expiration string `json:"expiration"`
	Link       string `json:"complete_auth_link"`
}

// expires finds the end of the token: in creds, or as newer gateways say it.
func (a authAnswer) expires(now time.Time) time.Time {
	end := time.Time{}
	if at, err := time.Parse(time.RFC3339, a.Expiration); err == nil {
		end = at
	}
	if n, err := a.Creds.Expiry.Int64(); err == nil && n > 0 {
		const year5000 = 95617584000
		if n > year5000 {
			n /= 1000 // it is in milliseconds
		}
		end = time.Unix(n, 0)
	}
	if !end.After(now) {
		return now.Add(usualLife)
	}
	if latest := now.Add(longest); end.After(latest) {
		return latest // far beyond that a time has no JSON form
	}
	return end
}

func newToken(a authAnswer, now time.Time, chance float64) *token {
	end := a.expires(now)
	return &token{value: secret.NewString(a.Token), born: now, due: session.TwoThirds(now, end, chance), expires: end}
}
