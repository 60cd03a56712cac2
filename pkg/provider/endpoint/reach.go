package endpoint

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// reach connects one transport to its servers. A class may make the driver connect to many servers,
// but not to the node itself, nor to services for any program on the node, such as a cloud's
// metadata service, unless the operator named that server. It checks the resolved address of each
// connection, so a name that resolves differently later is checked again.
type reach struct {
	pool  *Pool
	proxy func(*http.Request) (*url.URL, error)

	mu sync.Mutex
	// proxies are the operator's HTTP proxies, by host and port.
	proxies map[string]bool
}

func newReach(p *Pool) *reach {
	return &reach{pool: p, proxy: http.ProxyFromEnvironment, proxies: map[string]bool{}}
}

// through returns the operator's proxy for a request. The proxy resolves the name of the server, so
// through can only check a literal address.
func (r *reach) through(request *http.Request) (*url.URL, error) {
	u, err := r.proxy(request)
	if err != nil || u == nil {
		return u, err
	}
	if !r.free(hostPort(request.URL)) {
		if err := forbidden(request.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proxies[hostPort(u)] = true
	return u, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// free reports whether the operator allows connections to this host and port, whatever the name
// resolves to.
func (r *reach) free(hostPort string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pool.AllowLocal || r.proxies[hostPort] || r.pool.Allowed.names(hostPort)
}

func (r *reach) dial(ctx context.Context, network, hostPort string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	if !r.free(hostPort) {
		d.Control = func(_, resolved string, _ syscall.RawConn) error {
			host, _, err := net.SplitHostPort(resolved)
			if err != nil {
				return fault.New(fault.Internal, "reading the address %q: %w", resolved, err)
			}
			return forbidden(host)
		}
	}
	return d.DialContext(ctx, network, hostPort)
}

// dialSocket connects to a socket on the node, which the operator named.
func dialSocket(path string) func(ctx context.Context, _, _ string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := &net.Dialer{Timeout: dialTimeout}
		return d.DialContext(ctx, "unix", path)
	}
}

// forbidden returns an error for an address of the node itself, its links or its cloud. A name has
// none.
func forbidden(host string) error {
	ip, err := netip.ParseAddr(host)
	if err != nil || !local(ip) {
		return nil
	}
	return fault.New(fault.NotAllowed, "%s is an address of the node itself, of its links or of its cloud's metadata, to which this node's operator lets no class connect", ip).
		WithHint("the operator allows one server by its host and port in the provider's list of allowed addresses, and all with %s", setting.Name("--allow-local-addresses"))
}

// local reports whether an address is the node's own, or means something else on each node.
func local(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return true
	}
	for _, p := range localPrefixes {
		if p.Contains(ip) {
			return true
		}
	}
	for _, p := range embedding {
		if p.Contains(ip) {
			bytes := ip.As16()
			return local(netip.AddrFrom4([4]byte(bytes[12:])))
		}
	}
	return false
}

var (
	localPrefixes = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),          // this network: Linux takes 0.0.0.0 for itself
		netip.MustParsePrefix("255.255.255.255/32"), // broadcast
		netip.MustParsePrefix("fd00:ec2::/32"),      // AWS: metadata, DNS, time
		netip.MustParsePrefix("fd20:ce::254/128"),   // Google Cloud: metadata
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure: the host's services
		netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud: metadata
		netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud: metadata
	}
	// embedding are the prefixes of IPv6 addresses that end with an IPv4 one.
	embedding = []netip.Prefix{
		netip.MustParsePrefix("64:ff9b::/96"), // NAT64
		netip.MustParsePrefix("::/96"),
	}
)

const keepAlive = 30 * time.Second
