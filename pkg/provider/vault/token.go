package vault

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// token is a Vault token.
type token struct {
	login     login
	value     secret.String
	born      time.Time
	renewable bool

	mu      sync.Mutex
	ttl     time.Duration // granted last; 0 means for ever
	due     time.Time     // when to renew it; zero means never
	expires time.Time     // zero means never
	// final tokens are replaced when they are due: renewing does not help.
	final bool
	// uses are how many requests are left to a token that was given for a
	// number of them; see take.
	uses int
	// counted tells that it was, and given how many it had at first.
	counted bool
	given   int
}

// authInfo is what a login or a renewal says of the token.
type authInfo struct {
	Token     string            `json:"client_token"`
	TTL       json.Number       `json:"lease_duration"`
	Renewable bool              `json:"renewable"`
	Type      string            `json:"token_type"`
	Metadata  map[string]string `json:"metadata"`
	MFA       json.RawMessage   `json:"mfa_requirement"`
	// Uses is the role's token_num_uses; 0 means any number.
	Uses int `json:"num_uses"`
}

func (a authInfo) ttl() time.Duration {
	seconds, err := a.TTL.Float64()
	if err != nil {
		return 0
	}
	return seconds2duration(seconds)
}

func newToken(l login, a authInfo, now time.Time, chance float64) *token {
	// A renewal would spend a use, and a new login gives all of them.
	t := &token{login: l, value: secret.NewString(a.Token), born: now, renewable: a.Renewable && a.Type != "batch" && a.Uses <= 0}
	t.final = !t.renewable
	t.uses, t.given, t.counted = a.Uses, a.Uses, a.Uses > 0
	t.extend(now, a.ttl(), chance)
	return t
}

// limited tells whether the token was given for a number of requests, as a role
// with token_num_uses does. Every request with it counts, those for itself too.
func (t *token) limited() bool { return t.counted }

// take spends one use of the token, if there is one and spare are left then.
// Vault ends a token with its last use, and all that hangs on it.
func (t *token) take(spare int) bool {
	if !t.counted {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses <= spare {
		return false
	}
	t.uses--
	return true
}

// extend notes a granted lifetime. One that falls short of the last tells
// that the token cannot be extended any more.
func (t *token) extend(now time.Time, ttl time.Duration, chance float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ttl <= 0 {
		t.ttl, t.due, t.expires = 0, time.Time{}, time.Time{}
		return
	}
	if t.ttl > 0 && fellShort(t.ttl, ttl) {
		t.final = true
	} else {
		t.ttl = ttl
	}
	t.expires = now.Add(ttl)
	t.due = session.TwoThirds(now, t.expires, chance)
	if t.final && t.renewable {
		t.due = now
	}
}

func (t *token) alive(now time.Time) bool {
	return session.Alive(t.Ends(), now)
}

// giveBack undoes take for a request that was not answered.
func (t *token) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.uses++
}

// fresh tells that no use of a counted token was spent yet.
func (t *token) fresh() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counted && t.uses == t.given
}

// granted is the lifetime that the store gave last; 0 means for ever.
func (t *token) granted() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ttl
}

// Born implements session.Token. A refusal of one with a number of uses is
// put down to it at any age: what was asked may have cost more than was counted.
func (t *token) Born() time.Time {
	if t.limited() {
		return time.Time{}
	}
	return t.born
}

// Ends implements session.Token.
func (t *token) Ends() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expires
}

func (t *token) isDue(now time.Time) (due, final bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.due.IsZero() && session.IsDue(t.due, t.expires, now), t.final
}

// giveUp has the token live out its time, and no longer.
func (t *token) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = true
}

// dueTime is when to renew or replace the token; zero means never.
func (t *token) dueTime() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.due
}

// podBound tells whether the store took the login for more than that of the
// service account, so that another of its pods could be answered otherwise.
//
// The kubernetes method shows that it did not, by the way it describes a
// login. Of other methods nothing is known, unless the class says that they go
// by the service account. Where a pod's name or UID shows in the login's
// metadata nothing is shared, whatever the class says.
func (a authInfo) podBound(s sharing, pod identity.Pod, uid string) bool {
	for key, value := range a.Metadata {
		switch key {
		case "role", metaName, metaNamespace, metaSecret:
			continue // may well be the same word as the pod's name
		}
		if value != "" && (value == pod.UID || value == pod.Name) {
			return true
		}
	}
	switch s {
	case sharePod:
		return true
	case shareServiceAccount:
		return uid == ""
	}
	return uid == "" || !a.ofKubernetesMethod(pod, uid)
}

// byCertificate tells whether the cert method gave the token: it names the
// certificate's role in the metadata. Without a client certificate it gives none.
func (a authInfo) byCertificate(l login) bool {
	return l.target.TLS.ClientCertFile != "" && a.Metadata["cert_name"] != ""
}

// The metadata of a login through the kubernetes method.
const (
	metaUID       = "service_account_uid"
	metaName      = "service_account_name"
	metaNamespace = "service_account_namespace"
	metaSecret    = "service_account_secret_name"
)

// ofKubernetesMethod tells whether the login is described as the kubernetes
// method does it: with all four keys, always, and without a secret for a token
// that kubelet passed. A jwt role can map claims to any of these keys, but a
// token of kubelet's has no empty claim for the last.
func (a authInfo) ofKubernetesMethod(pod identity.Pod, uid string) bool {
	secret, named := a.Metadata[metaSecret]
	return named && secret == "" && a.Metadata[metaUID] == uid &&
		a.Metadata[metaName] == pod.ServiceAccount && a.Metadata[metaNamespace] == pod.Namespace
}
