package vault

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

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
