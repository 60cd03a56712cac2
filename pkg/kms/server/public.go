package server

import (
	"errors"
	"net/http"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// public is what the API server is told of a failure. It passes that on to
// those who read Secrets and to its health check, so no server, path or mount is
// in it: the log has those, under the call's uid.
func public(err error) string {
	const more = "; see the log of mayfly-kms"
	var safe *plugin.Safe
	switch {
	case transit.IsForeign(err):
		return "Vault cannot open the value with this key: it is of another key of the same name or of another cluster, or was changed" + more
	case transit.IsGone(err):
		return "the Transit key is gone" + more
	case store.Says(err, http.StatusBadRequest, "too old"):
		return "the value is of a version of the key below its min_decryption_version" + more
	case errors.As(err, &safe):
		return safe.Error()
	case fault.Of(err) == fault.InvalidArgument:
		return err.Error() // it is about the request alone
	case fault.Of(err) == fault.Internal:
		return "mayfly-kms has a defect and recovered from it" + more
	}
	return "Vault cannot be used: " + string(fault.Of(err)) + more
}
