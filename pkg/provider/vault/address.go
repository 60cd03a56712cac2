package vault

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// address is where a server answers, in one canonical spelling.
type address struct {
	scheme string // http, https or unix
	host   string // lower case, no brackets, no trailing dot; a path for unix
	port   string // never empty, but for unix
	path   string // prefix of a server behind a gateway: "" or "/vault"
}

var errAddress = errors.New("must be a URL such as https://vault.example.com:8200")

// parseAddress takes http, https and unix URLs without user, query or fragment.
func parseAddress(text string) (address, error) {
	if socket, ok := strings.CutPrefix(text, "unix://"); ok {
		if !path.IsAbs(socket) || hasControl(socket) {
			return address{}, errors.New("must name a socket by its absolute path, such as unix:///run/vault.sock")
		}
		return address{scheme: "unix", host: path.Clean(socket)}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return address{}, errAddress // url's own error repeats the text, which may hold a password
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return address{}, fmt.Errorf("%w: the scheme must be http or https", errAddress)
	case u.User != nil:
		return address{}, fmt.Errorf("%w: it must not hold a user or password", errAddress)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return address{}, fmt.Errorf("%w: it must not hold a query or fragment", errAddress)
	case u.Hostname() == "":
		return address{}, fmt.Errorf("%w: it has no host", errAddress)
	}
	return address{u.Scheme, canonicalHost(u.Hostname()), portOf(u), prefixOf(u)}, nil
}

func prefixOf(u *url.URL) string {
	if p := path.Clean("/" + u.Path); p != "/" {
		return p
	}
	return ""
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return host
}

// String is the canonical URL.
func (a address) String() string {
	if a.scheme == "unix" {
		return "unix://" + a.host
	}
	u := url.URL{Scheme: a.scheme, Host: a.hostPort(), Path: a.path}
	return u.String()
}

func (a address) hostPort() string { return net.JoinHostPort(a.host, a.port) }

// url is where requests go; over a unix socket the host is only for show.
func (a address) url() *url.URL {
	if a.scheme == "unix" {
		return &url.URL{Scheme: "http", Host: "localhost"}
	}
	return &url.URL{Scheme: a.scheme, Host: a.hostPort(), Path: a.path}
}

// allowlist is which servers classes may name.
type allowlist struct {
	patterns []address
	fallback address // the operator's default; zero if there is none
}

// parseAllowlist reads Config.AllowedAddresses.
func parseAllowlist(patterns []string, fallback address) (allowlist, error) {
	l := allowlist{fallback: fallback}
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			return allowlist{}, fmt.Errorf("allowed address %q: %w", text, err)
		}
		l.patterns = append(l.patterns, p)
	}
	return l, nil
}

func parsePattern(text string) (address, error) {
	anyPort := strings.HasSuffix(text, ":*")
	p, err := parseAddress(strings.TrimSuffix(text, ":*"))
	switch {
	case err != nil:
		return address{}, err
	case p.path != "":
		return address{}, errors.New("must end after the port")
	case strings.Contains(strings.TrimPrefix(p.host, "*."), "*") && p.scheme != "unix":
		return address{}, errors.New(`the only wildcards are a host that begins with "*." and the port "*"`)
	}
	if anyPort {
		p.port = "*"
	}
	return p, nil
}

// allows tells whether a class may send its pods' tokens to a.
func (l allowlist) allows(a address) bool {
	if l.fallback.scheme != "" && sameServer(l.fallback, a) {
		return true
	}
	for _, p := range l.patterns {
		if p.matches(a) {
			return true
		}
	}
	return len(l.patterns) == 0 && a.scheme != "unix"
}

func sameServer(a, b address) bool {
	return a.scheme == b.scheme && a.host == b.host && a.port == b.port
}

func (p address) matches(a address) bool {
	if p.scheme != a.scheme || (p.port != "*" && p.port != a.port) {
		return false
	}
	suffix, wild := strings.CutPrefix(p.host, "*.")
	if !wild || p.scheme == "unix" {
		return p.host == a.host
	}
	label, rest, ok := strings.Cut(a.host, ".")
	return ok && label != "" && rest == suffix
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\u2028' || r == '\u2029' })
}
