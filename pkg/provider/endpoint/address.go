// Package endpoint connects to secret stores: addresses and the operator's list of those that
// classes may name, TLS settings from files that may change, and one warm transport with one
// circuit breaker per server and settings.
package endpoint

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Address is a server's address, normalized so that equal servers are equal values. The zero value
// is no address.
type Address struct {
	scheme string // http, https or unix
	host   string // lower case, without brackets and trailing dots; the path of a unix socket
	port   string // empty for a socket only
	path   string // prefix of the API's paths; "" or "/v2"
}

const schemeUnix = "unix"

var errAddress = errors.New("must be a URL such as https://store.example.com:8200")

// ParseAddress parses an http or https URL without user, query and fragment. Its errors do not
// quote the text, which may have a password.
//
// The host must be one that net/http dials unchanged: an address, or a name in ASCII. ParseAddress
// refuses other letters and dots, which net/http would translate before it dials.
func ParseAddress(text string) (Address, error) { return parseURL(text, false) }

// parseURL also accepts, in a pattern, a host that begins with "*.".
func parseURL(text string, pattern bool) (Address, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || HasControl(text):
		return Address{}, errAddress
	case u.Scheme != "https" && u.Scheme != "http":
		return Address{}, fmt.Errorf("%w: the scheme must be http or https", errAddress)
	case oneHost(u.Hostname()) == "" || u.Opaque != "":
		return Address{}, fmt.Errorf("%w: it has no host", errAddress)
	case u.User != nil:
		return Address{}, fmt.Errorf("%w: it must not hold a user or password", errAddress)
	case !isHost(oneHost(u.Hostname()), pattern):
		return Address{}, fmt.Errorf("%w: the host must be an IP address or a name of letters, digits, '-', '_' and '.' in ASCII, an international one as in xn--bcher-kva.example", errAddress)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return Address{}, fmt.Errorf("%w: it must not hold a query or fragment", errAddress)
	}
	a := Address{scheme: u.Scheme, host: oneHost(u.Hostname()), port: map[string]string{"https": "443", "http": "80"}[u.Scheme]}
	if u.Port() != "" {
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 {
			return Address{}, fmt.Errorf("%w: the port must be a number from 1 to 65535", errAddress)
		}
		a.port = strconv.FormatUint(port, 10)
	}
	clean := path.Clean("/" + u.Path)
	if path.Base(clean) == "v1" {
		return Address{}, fmt.Errorf("%w: it must not end in /v1, with which every path of the API begins: leave that out", errAddress)
	}
	if clean != "/" {
		a.path = clean
	}
	return a, nil
}

// ParseAddressOrSocket also accepts the socket of a server on the node, such as
// unix:///run/store.sock.
func ParseAddressOrSocket(text string) (Address, error) {
	socket, ok := strings.CutPrefix(text, schemeUnix+"://")
	switch {
	case !ok:
		return ParseAddress(text)
	case !path.IsAbs(socket) || HasControl(socket) || !utf8.ValidString(socket):
		return Address{}, errors.New("must name a socket by its absolute path, as in unix:///run/store.sock")
	}
	return Address{scheme: schemeUnix, host: path.Clean(socket)}, nil
}

func oneHost(host string) string {
	host = strings.TrimRight(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return host
}

// isHost reports whether net/http dials a host as it is written.
func isHost(host string, pattern bool) bool {
	if isIP(host) {
		return true
	}
	if pattern {
		host = strings.TrimPrefix(host, "*.")
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// IsZero reports whether there is no address.
func (a Address) IsZero() bool { return a == Address{} }

// Plain reports whether the connection is not encrypted.
func (a Address) Plain() bool { return a.scheme == "http" }

// String is the URL, always with its port.
func (a Address) String() string {
	switch {
	case a.IsZero():
		return ""
	case a.scheme == schemeUnix:
		return schemeUnix + "://" + a.host
	}
	return a.URL("").String()
}

// MarshalText writes the URL, for saved state.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the output of MarshalText.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a = Address{}
	if len(text) > 0 {
		*a, err = ParseAddressOrSocket(string(text))
	}
	return err
}

// URL is the address of a call below the server's own path. For a socket its host has no meaning.
func (a Address) URL(call string) *url.URL {
	if a.scheme == schemeUnix {
		return &url.URL{Scheme: "http", Host: "localhost", Path: call}
	}
	return &url.URL{Scheme: a.scheme, Host: net.JoinHostPort(a.host, a.port), Path: a.path + call}
}

// SameServer reports whether both addresses have the same server, whatever their paths.
func (a Address) SameServer(b Address) bool {
	a.path, b.path = "", ""
	return a == b
}

// Allowlist lists the servers to which classes may send their pods' credentials.
type Allowlist struct {
	patterns []Address
	// own are the operator's own servers, which are always allowed.
	own []Address
}

// ParseAllowlist parses patterns of scheme://host[:port], which are compared exactly except for two
// wildcards: a host that begins with "*." matches exactly one more label, and the port "*" matches
// any. Without patterns every server is allowed but no socket, since a class must not reach a
// node's other sockets. The operator's own servers are always allowed; zero is none.
func ParseAllowlist(patterns []string, own ...Address) (Allowlist, error) {
	l := Allowlist{own: slices.DeleteFunc(slices.Clone(own), Address.IsZero)}
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
	if strings.HasPrefix(text, schemeUnix+"://") {
		return ParseAddressOrSocket(text) // literally
	}
	text, anyPort := strings.CutSuffix(text, ":*")
	if strings.Contains(strings.Replace(text, "://*.", "", 1), "*") {
		return Address{}, errors.New(`the only wildcards are a host that begins with "*." and the port "*"`)
	}
	p, err := parseURL(text, true)
	switch {
	case err != nil:
		return Address{}, err
	case p.path != "":
		return Address{}, errors.New("must end after the port")
	}
	if anyPort {
		p.port = "*"
	}
	return p, nil
}

// Allows reports whether a class may name a.
func (l Allowlist) Allows(a Address) bool {
	if slices.ContainsFunc(l.own, a.SameServer) {
		return true
	}
	if len(l.patterns) == 0 {
		return a.scheme != schemeUnix
	}
	return slices.ContainsFunc(l.patterns, func(p Address) bool { return p.covers(a) })
}

// names reports whether the operator listed this very host with this port. A wildcard does not
// count, because others may control the names that it matches.
func (l Allowlist) names(hostPort string) bool {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return false
	}
	host = oneHost(host)
	is := func(a Address) bool {
		return a.scheme != schemeUnix && a.host == host && (a.port == port || a.port == "*")
	}
	return slices.ContainsFunc(l.own, is) || slices.ContainsFunc(l.patterns, is)
}

func (a Address) covers(b Address) bool {
	if a.scheme != b.scheme || (a.port != "*" && a.port != b.port) {
		return false
	}
	parent, wild := strings.CutPrefix(a.host, "*.")
	if !wild { // also for a socket, whose path begins with a slash
		return a.host == b.host
	}
	label, rest, dotted := strings.Cut(b.host, ".")
	return dotted && label != "" && rest == parent && !isIP(b.host)
}

// HasControl reports whether a text has a character that could end a line or a header.
func HasControl(s string) bool { return strings.ContainsFunc(s, isControl) }

func isControl(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }
