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

// classify returns the kind of the answer to a request, and its end or announced change if
// the kind has one. Secrets of a KV engine are polled, whatever they contain.
func classify(method, path string, a *session.Answer, at time.Time) (session.Kind, time.Time) {
	if a.LeaseID != "" {
		return session.Leased, at.Add(a.Duration)
	}
	if a.Type == "kv" || a.Revision.Known() {
		return session.Polled, time.Time{}
	}
	data := params.Member(a.Body, "data")
	if rotation(path, data) {
		return session.Static, at.Add(secondsIn(data, "ttl"))
	}
	if method == http.MethodGet && !isMade(path, a, data) && (a.Duration <= 0 || a.Type == "") {
		return session.Polled, time.Time{}
	}
	if end := lifetime(a, data, at); !end.IsZero() {
		return session.Certificate, end
	}
	if method == http.MethodGet || !isNull(data) && !params.IsObject(data) {
		return session.Polled, time.Time{}
	}
	return session.Once, time.Time{}
}

// rotation reports whether an answer is that of a static role, whose password changes at a
// time that Vault names.
func rotation(path string, data []byte) bool {
	return !isNull(params.Member(data, "ttl")) &&
		(!isNull(params.Member(data, "last_vault_rotation")) || strings.Contains(path, "/static-cred"))
}

// overdue reports whether a static role has not made an announced change, and returns the
// announced time. At that time ttl may already be that of the next period, while the
// password is the old one until Vault works on it.
func overdue(before, now *session.Reading, rotated time.Time) (time.Time, bool) {
	if before == nil || before.Kind != session.Static || now.Kind != session.Static || rotated.IsZero() || before.End.After(now.At) || before.End.IsZero() {
		return time.Time{}, false
	}
	late := now.At.Sub(before.End)
	return before.End, late < longestOverdue && rotated.Before(before.End.Add(-rotationSlack))
}

const (
	// rotationSlack allows for the rounding of times and for differences of clocks.
	rotationSlack = 2 * time.Second
	// longestOverdue is how long to wait for a change that does not come.
	longestOverdue = 10 * time.Minute
)

// lastRotation returns the last change of a static role's password; zero if the answer
// does not have it.
func lastRotation(a *session.Answer) (at time.Time) {
	if a == nil || a.Body == nil {
		return at
	}
	readMember(params.Member(a.Body, "data"), "last_vault_rotation", &at)
	return at
}

// isMade reports whether a GET has created what it returns. An answer with a lifetime and
// without a credential describes something, such as a role. A server that does not name
// the engine (OpenBao, Vault before 1.17) may have answered from KV version 1, whose
// secrets may have any keys. Such an answer always has a lease_duration, and other answers
// without a lease do not.
func isMade(path string, a *session.Answer, data []byte) bool {
	if !isNull(params.Member(data, "certificate")) {
		return !isNull(params.Member(data, "serial_number")) && !isNull(params.Member(data, "expiration"))
	}
	if a.Type == "" && a.Duration > 0 {
		return strings.Contains("/"+path, "/identity/oidc/token/")
	}
	for _, name := range []string{"token", "access_token", "id_token", "session_token", "security_token", "secret_key", "private_key", "private_key_data", "password", "secret_id", "signed_key", "client_secret"} {
		if !isNull(params.Member(data, name)) {
			return true
		}
	}
	return false
}

// lifetime returns when the result of a read expires; zero for never.
func lifetime(a *session.Answer, data []byte, at time.Time) time.Time {
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
	if a.Duration > 0 {
		return at.Add(a.Duration)
	}
	if life := secondsIn(params.Member(a.Body, "auth"), "lease_duration"); life > 0 {
		return at.Add(life)
	}
	return time.Time{}
}

// expiration reads Unix seconds or RFC 3339, or else the end of a certificate.
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
