package server

import (
	"errors"
	"net/http"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// public is the error text for the API server. The API server shows it to users who read Secrets
// and in its health check, so it has no server, path or mount: the log has those, with the call's
// uid.
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
		return err.Error() // it has only the request's own problem
	case fault.Of(err) == fault.Internal:
		return "mayfly-kms has a defect and recovered from it" + more
	}
	return "Vault cannot be used: " + string(fault.Of(err)) + more
}
