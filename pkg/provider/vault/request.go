package vault

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// request is one API request.
type request struct {
	method string
	path   string
	query  url.Values
	body   []byte
}

// queryOf returns Vault's request behind one of the engine.
func queryOf(r *session.Request) *request { return r.Query.(*request) } //nolint:forcetypeassert // newObject sets it

// String names the request in errors and logs, without arguments.
func (r *request) String() string {
	s := r.path
	if len(r.query) > 0 {
		s += "?" + r.query.Encode()
	}
	if r.method == http.MethodGet {
		return strconv.Quote(s)
	}
	return r.method + " " + strconv.Quote(s)
}

// looksLeased recognises <mount>/creds/<role>, the path of leased credentials in the
// engines of databases, clouds and brokers.
func (r *request) looksLeased() bool {
	elements := strings.Split(r.path, "/")
	n := len(elements)
	return n >= 3 && elements[n-2] == "creds" && !strings.Contains(r.path, "/data/")
}

// mayLackData reports whether a request may be for a secret of a KV version 2 engine with
// a path without data/.
func (r *request) mayLackData() bool {
	elements := strings.Split(r.path, "/")
	if r.method != http.MethodGet || len(r.query) > 0 || len(elements) < 2 || elements[1] == "data" || r.looksLeased() {
		return false
	}
	return !slices.Contains([]string{"auth", "sys", "identity", "cubbyhole"}, elements[0])
}

// withData returns the path that was meant if the engine's mount has one element; empty if
// the path has data already.
func (r *request) withData() string {
	elements := strings.Split(r.path, "/")
	if slices.Contains(elements, "data") {
		return ""
	}
	return elements[0] + "/data/" + strings.Join(elements[1:], "/")
}

// metadataPath returns the path of a secret's versions in KV v2. It is empty if an object
// needs more than the data, if the class asks for a version, or if it is unclear which
// part of the path is the mount.
func metadataPath(of *session.Request) (string, bool) {
	r := queryOf(of)
	if of.Whole || len(r.query) > 0 || r.method != http.MethodGet || strings.Count("/"+r.path+"/", "/data/") != 1 {
		return "", false
	}
	return strings.Replace(r.path, "/data/", "/metadata/", 1), strings.Contains(r.path, "/data/")
}

// access returns what a policy must allow for the request: the path as in Vault's
// policies, and the capabilities.
func (r *request) access() (path string, capabilities []string) {
	path = r.path
	list, _ := strconv.ParseBool(r.query.Get("list"))
	switch {
	case r.method != http.MethodGet:
		capabilities = []string{"update"}
	case list:
		path += "/"
		capabilities = []string{"list"}
	default:
		capabilities = []string{"read"}
	}
	if api.IsSudoPath("/" + strings.TrimSuffix(path, "/")) {
		capabilities = append(capabilities, "sudo")
	}
	return path, capabilities
}

// public reports whether Vault answers the request without a policy, for what the PKI and
// SSH engines, the identity store and the server itself publish. The path alone does not
// prove which engine it is.
func (r *request) public() bool {
	if r.method != http.MethodGet || len(r.query) > 0 {
		return false
	}
	if jsonPath(r.path) != "" || bareKey(r.path) != "" && !strings.HasSuffix(r.path, "sys/metrics") {
		return true
	}
	e := strings.Split(r.path, "/")
	n := len(e)
	switch {
	case n >= 2 && e[n-1] == "public_key":
	case n >= 3 && e[n-2] == "cert" && (slices.Contains([]string{"ca", "ca_chain", "crl", "delta-crl"}, e[n-1]) || strings.Count(e[n-1], ":") > 1):
	case n >= 4 && e[n-3] == "issuer" && e[n-1] == "json":
	default:
		return false
	}
	return !slices.Contains(e, "data")
}

// mayLease reports whether the answer may have a lease. Only the answer itself is certain.
func (r *request) mayLease() bool {
	return r.method != http.MethodGet || r.looksLeased() || slices.Contains(strings.Split(r.path, "/"), "sts")
}
