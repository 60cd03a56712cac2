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
	var d struct {
		TTL          *json.Number    `json:"ttl"`
		Rotated      json.RawMessage `json:"last_vault_rotation"`
		Token        string          `json:"token"`
		Expiration   json.RawMessage `json:"expiration"`
		Serial       string          `json:"serial_number"`
		Certificate  string          `json:"certificate"`
		CertificateB string          `json:"cert"`
	}
	if json.Unmarshal(params.Member(a.body, "data"), &d) != nil {
		return polled, time.Time{}
	}
	if d.TTL != nil && (len(d.Rotated) > 0 || strings.Contains(r.path, "/static-cred") || strings.Contains(r.path, "identity/oidc/token/")) {
		seconds, _ := d.TTL.Float64()
		return static, at.Add(seconds2duration(seconds))
	}
	if r.method == http.MethodGet && (d.Serial == "" || len(d.Expiration) == 0 || d.Certificate == "") {
		return polled, time.Time{}
	}
	if end := expiration(d.Expiration, d.Certificate, d.CertificateB); !end.IsZero() {
		return certificate, end
	}
	return polled, time.Time{}
}

// expiration reads Unix seconds or RFC 3339, else the end of a certificate.
func expiration(raw json.RawMessage, certificates ...string) time.Time {
	const lastOf9999 = 253402300799 // what comes later has no form in JSON, nor in X.509
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

// dueAt is when an answer is to be had anew.
func dueAt(k kind, at, end time.Time, interval time.Duration, chance float64) time.Time {
	switch k {
	case leased, certificate:
		if !end.After(at) { // over already, or of a lease that says nothing
			return at.Add(interval)
		}
		return session.TwoThirds(at, end, chance)
	case static:
		return session.AfterChange(at, end, chance)
	}
	return at.Add(interval)
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
