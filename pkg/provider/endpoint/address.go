// Package endpoint reaches secret stores: addresses and the operator's list of
// those that classes may name, TLS settings from files that may change, and one
// warm transport with one circuit breaker per server and settings.
package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"unicode"
)

// Address is where a server answers, in one spelling, so that equal servers
// are equal values. The zero value is no address.
type Address struct {
	scheme string // http or https
	host   string // lower case, without brackets and trailing dots
	port   string // never empty
	path   string // what comes before the API's own paths; "" or "/v2"
}

// ParseAddress takes an http or https URL without user, query and fragment.
// Its errors do not repeat the text, which may hold a password.
func ParseAddress(text string) (Address, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || hasControl(text):
		return Address{}, errors.New("must be a URL such as https://gateway.example.com:8000")
	case u.Scheme != "https" && u.Scheme != "http":
		return Address{}, errors.New("must be a URL that begins with https:// or http://")
	case oneHost(u.Hostname()) == "" || u.Opaque != "":
		return Address{}, errors.New("must be a URL with a host")
	case u.User != nil:
		return Address{}, errors.New("must not hold a user or a password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return Address{}, errors.New("must not hold a query or a fragment")
	}
	a := Address{scheme: u.Scheme, host: oneHost(u.Hostname()), port: u.Port()}
	if a.port == "" {
		a.port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	if clean := path.Clean("/" + u.Path); clean != "/" {
		a.path = clean
	}
	return a, nil
}

func oneHost(host string) string {
	host = strings.TrimRight(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return host
}

// IsZero tells whether there is no address.
func (a Address) IsZero() bool { return a == Address{} }

// Plain tells whether the way there is not encrypted.
func (a Address) Plain() bool { return a.scheme == "http" }

// String is the URL, always with its port.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	return a.URL("").String()
}

// MarshalText writes the URL, for state that is kept.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a = Address{}
	if len(text) > 0 {
		*a, err = ParseAddress(string(text))
	}
	return err
}

// URL is the address of a call below the server's own path.
func (a Address) URL(call string) *url.URL {
	return &url.URL{Scheme: a.scheme, Host: net.JoinHostPort(a.host, a.port), Path: a.path + call}
}

func (a Address) sameServer(b Address) bool {
	a.path, b.path = "", ""
	return a == b
}

// Allowlist is which servers classes may send their pods' credentials to.
type Allowlist struct {
	patterns []Address
	// fallback is the operator's own server, which is always allowed.
	fallback Address
}

// ParseAllowlist reads patterns of scheme://host[:port], compared exactly but
// for two wildcards: a host that begins with "*." stands for exactly one label
// more, and the port "*" for any. No pattern allows every server; the fallback
// is allowed in any case, unless it is zero.
func ParseAllowlist(patterns []string, fallback Address) (Allowlist, error) {
	l := Allowlist{fallback: fallback}
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			return Allowlist{}, fmt.Errorf("allowed address %q: %w", text, err)
		}
		l.patterns = append(l.patterns, p)
	}
	return l, nil
}

func parsePattern(text string) (Address, error) {
	text, anyPort := strings.CutSuffix(text, ":*")
	p, err := ParseAddress(text)
	switch {
	case err != nil:
		return Address{}, err
	case p.path != "":
		return Address{}, errors.New("must end after the port")
	case strings.Contains(strings.TrimPrefix(p.host, "*."), "*"):
		return Address{}, errors.New(`the only wildcards are a host that begins with "*." and the port "*"`)
	}
	if anyPort {
		p.port = "*"
	}
	return p, nil
}

// Allows tells whether a class may name a.
func (l Allowlist) Allows(a Address) bool {
	if len(l.patterns) == 0 || (!l.fallback.IsZero() && l.fallback.sameServer(a)) {
		return true
	}
	for _, p := range l.patterns {
		if p.covers(a) {
			return true
		}
	}
	return false
}

func (a Address) covers(b Address) bool {
	if a.scheme != b.scheme || (a.port != "*" && a.port != b.port) {
		return false
	}
	parent, wild := strings.CutPrefix(a.host, "*.")
	if !wild {
		return a.host == b.host
	}
	label, rest, dotted := strings.Cut(b.host, ".")
	return dotted && label != "" && rest == parent
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
