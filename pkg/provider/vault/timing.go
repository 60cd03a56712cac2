package vault

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// kind is what decides when an answer is to be had anew.
type kind int

const (
	polled      kind = iota // has no lifetime: read again at the interval
	static                  // changes at a time that the store names
	certificate             // is made by the read, and ends by itself
	leased                  // is made by the read, ends with its lease or Vault token
	once                    // is made by the read, and has no end
)

// shareable tells whether a read is alike for all who may make it.
func (k kind) shareable() bool { return k == polled || k == static }

// classify finds the kind, and the end or the announced change where the kind
// has one. What people keep in KV is polled, whatever it looks like.
func classify(r *request, a *answer, at time.Time) (kind, time.Time) {
	if a.leaseID != "" {
		return leased, at.Add(a.duration)
	}
	if a.mountType == "kv" || a.kv.known() {
		return polled, time.Time{}
	}
	data := params.Member(a.body, "data")
	if rotation(r, data) {
		return static, at.Add(secondsIn(data, "ttl"))
	}
	if r.method == http.MethodGet && !isMade(r, a, data) && (a.duration <= 0 || a.mountType == "") {
		return polled, time.Time{}
	}
	if end := lifetime(a, data, at); !end.IsZero() {
		return certificate, end
	}
	if r.method == http.MethodGet || !isNull(data) && !params.IsObject(data) {
		return polled, time.Time{}
	}
	return once, time.Time{}
}

// rotation tells whether an answer is that of a static role, whose password
// changes at a time that the store names.
func rotation(r *request, data []byte) bool {
	return !isNull(params.Member(data, "ttl")) &&
		(!isNull(params.Member(data, "last_vault_rotation")) || strings.Contains(r.path, "/static-cred"))
}

// overdue tells whether a static role announced a change that it has not made:
// at that moment ttl can be the next period's already, while the password is
// the old one until the store's queue comes to it. It returns the announced
// moment.
func overdue(before, now *reading, rotated time.Time) (time.Time, bool) {
	if before == nil || before.kind != static || now.kind != static || rotated.IsZero() || before.end.After(now.at) || before.end.IsZero() {
		return time.Time{}, false
	}
	late := now.at.Sub(before.end)
	return before.end, late < longestOverdue && rotated.Before(before.end.Add(-rotationSlack))
}

const (
	// rotationSlack is for the store's rounding and for clocks that differ.
	rotationSlack = 2 * time.Second
	// longestOverdue is how long a change that does not come is waited for.
	longestOverdue = 10 * time.Minute
)

// lastRotation is when a static role's password was last changed; zero if the
// answer does not say.
func lastRotation(a *answer) (at time.Time) {
	if a == nil || a.body == nil {
		return at
	}
	readMember(params.Member(a.body, "data"), "last_vault_rotation", &at)
	return at
}

// isMade tells whether a GET has made what it answers. Answers that have a
// lifetime and no credential describe something, such as a role. Of servers that
// do not name the engine (OpenBao, Vault before 1.17) it may be KV version 1,
// where people keep anything under any name. That always has a lease_duration,
// which other answers without a lease have not.
func isMade(r *request, a *answer, data []byte) bool {
	if !isNull(params.Member(data, "certificate")) {
		return !isNull(params.Member(data, "serial_number")) && !isNull(params.Member(data, "expiration"))
	}
	if a.mountType == "" && a.duration > 0 {
		return strings.Contains("/"+r.path, "/identity/oidc/token/")
	}
	for _, name := range []string{"token", "access_token", "id_token", "session_token", "security_token", "secret_key", "private_key", "private_key_data", "password", "secret_id", "signed_key", "client_secret"} {
		if !isNull(params.Member(data, name)) {
			return true
		}
	}
	return false
}

// lifetime is the end of what a read has made; zero if it has none.
func lifetime(a *answer, data []byte, at time.Time) time.Time {
	var cert, other, signed string
	readMember(data, "certificate", &cert)
	readMember(data, "cert", &other)
	readMember(data, "signed_key", &signed)
	for _, name := range []string{"expiration", "expires_at_seconds", "expire_time", "expires_at", "expires_on", "expiry"} {
		if end := expiration(params.Member(data, name)); !end.IsZero() {
			return end
		}
	}
	if end := expiration(nil, cert, other); !end.IsZero() {
		return end
	}
	if end := validBefore(signed); !end.IsZero() {
		return end
	}
	for _, name := range []string{"secret_id_ttl", "token_ttl", "expires_in", "ttl", "lease_duration"} {
		if life := secondsIn(data, name); life > 0 {
			return at.Add(life)
		}
	}
	if a.duration > 0 {
		return at.Add(a.duration)
	}
	var auth authInfo
	if readMember(a.body, "auth", &auth) && auth.ttl() > 0 {
		return at.Add(auth.ttl())
	}
	return time.Time{}
}

// secondsIn reads a number of seconds, or a duration as text.
func secondsIn(data []byte, name string) time.Duration {
	raw := params.Member(data, name)
	var seconds json.Number
	if json.Unmarshal(raw, &seconds) == nil {
		f, _ := seconds.Float64()
		return seconds2duration(f)
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return 0
	}
	d, _ := time.ParseDuration(text)
	return min(max(0, d), maxLease)
}

// lastOf9999 is the last second that has a form in JSON, and in X.509.
const lastOf9999 = 253402300799

// expiration reads Unix seconds or RFC 3339, else the end of a certificate.
func expiration(raw json.RawMessage, certificates ...string) time.Time {
	var seconds float64
	if json.Unmarshal(raw, &seconds) == nil && seconds > 0 {
		return time.Unix(int64(min(seconds, lastOf9999)), 0)
	}
	var text time.Time
	if json.Unmarshal(raw, &text) == nil && !text.IsZero() {
		return text
	}
	for _, certificate := range certificates {
		block, _ := pem.Decode([]byte(certificate))
		if block == nil {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			return c.NotAfter
		}
	}
	return time.Time{}
}

// pace is how often what has no lifetime is looked at again.
type pace struct {
	interval time.Duration
	// again tells that the interval stands on the object itself, and so is meant
	// for what each look makes anew as well.
	again bool
}

// pace of a request.
func (f *fetch) pace(r *request) pace {
	if r.interval == 0 {
		return pace{interval: f.spec.interval}
	}
	return pace{max(r.interval, f.config.MinInterval), true}
}

// dueAt is when an answer is to be had anew.
func dueAt(k kind, at, end time.Time, p pace, chance float64) time.Time {
	switch k {
	case leased, certificate:
		if !end.After(at) { // over already, or of a lease that says nothing
			return at.Add(p.interval)
		}
		return session.TwoThirds(at, end, chance)
	case static:
		return session.AfterChange(at, end, chance)
	case once:
		if !p.again {
			return time.Time{}
		}
	}
	return at.Add(p.interval)
}

// fellShort tells whether a renewal gave less than was asked for, so that the
// maximum is near. The second is for the store's rounding.
func fellShort(asked, granted time.Duration) bool {
	return float64(granted+time.Second) < 0.9*float64(asked)
}

// recentEnough tells whether an answer that was asked for at a moment will do,
// for its own volume or for another of the same identity.
func recentEnough(k kind, asked, due, now time.Time, own bool) bool {
	switch {
	case own && k == static:
		return now.Before(due)
	case own:
		return session.GoodForOwn(asked, due, now)
	}
	return session.GoodForOthers(asked, due, now)
}
