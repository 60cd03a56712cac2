package vault

import "net/http"

// mayPass tells whether a status is one that a moment may mend.
func mayPass(status int) bool {
	switch {
	case status == http.StatusPreconditionFailed, status == http.StatusTooManyRequests:
		return true
	case status == http.StatusNotImplemented:
		return false
	}
	return status >= 500
}

// untouched tells whether a status says that the request was turned away
// before it had an effect: no active node, a quota, a replica that lags.
func untouched(status int) bool {
	switch status {
	case http.StatusPreconditionFailed, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	}
	return false
}
