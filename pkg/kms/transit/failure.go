package transit

import (
	"fmt"
	"net/http"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
)

// The refusals that concern the key and not the request.
const (
	authFailed = "message authentication failed"
	tooOld     = "disallowed by policy (too old)"
	noKey      = "encryption key not found"
	deletedKey = "soft-deleted"
)

// explain adds what was attempted, and what to do.
func (c *Client) explain(what, capability, operation string, err error) error {
	path := c.config.Mount + "/" + operation + "/" + c.config.Key
	out := fault.New(fault.Of(err), "%s %q of Transit at %q: %w", what, c.config.Key, c.config.Mount, err)
	switch {
	case fault.Hint(err) != "": // what is below knows better
	case IsForeign(err):
		return out.WithHint("it was encrypted with another key of this name, or for another --cluster-id, or it was changed")
	case store.Says(err, http.StatusBadRequest, tooOld):
		return out.WithHint("the key's min_decryption_version is above the version of this value: lower it again with %s/keys/%s/config, then rewrite what still uses the old version", c.config.Mount, c.config.Key)
	case IsGone(err):
		return out.WithHint("restore the key from a backup of Vault; do not make a new one under this name (--transit-key), which could open nothing")
	case store.Says(err, http.StatusNotFound, "no handler"), store.Says(err, http.StatusNotFound, "unsupported path"):
		return out.WithHint("no Transit engine is mounted at %q (--transit-mount) in this namespace (--vault-namespace)", c.config.Mount)
	case store.Says(err, http.StatusNotFound, ""):
		out.Reason = fault.NotFound
		return out.WithHint("there is no key %q (--transit-key) at the mount %q (--transit-mount)", c.config.Key, c.config.Mount)
	case store.Says(err, http.StatusForbidden, ""):
		return out.WithHint("the login's policy must grant %q on %s", capability, path)
	case store.Says(err, http.StatusBadRequest, "minimum encryption key version"):
		return out.WithHint("the key's min_encryption_version is above the version in use; the next look at the key takes the latest one")
	}
	return out
}

// IsForeign reports that a ciphertext does not belong to this key and these associated data.
func IsForeign(err error) bool { return store.Says(err, http.StatusBadRequest, authFailed) }

// IsGone reports that the key existed and does not exist any more.
func IsGone(err error) bool {
	return store.Says(err, http.StatusBadRequest, noKey) || store.Says(err, http.StatusBadRequest, deletedKey)
}

// Usable returns an error that says why the plugin cannot use a key.
func (k Key) Usable() error {
	switch {
	case !isAEAD(k.Type):
		return fault.New(fault.Rejected, "the key is of type %s, which takes no associated data", k.Type).
			WithHint("make one of type aes256-gcm96, and name it in --transit-key")
	case k.Derived:
		return fault.New(fault.Rejected, "the key is a derived one, which needs a context for each use").
			WithHint("make one with derived=false, and name it in --transit-key")
	case k.SoftDeleted:
		return fault.New(fault.NotFound, "the key was deleted softly").WithHint("restore it with the key's soft-delete-restore")
	case k.Created[k.Latest].IsZero():
		return fault.New(fault.BadAnswer, "the key's latest version is %d, and Vault does not say when that was made", k.Latest)
	case k.MinEncryption > k.Latest:
		return fault.New(fault.Rejected, "the key's min_encryption_version is %d, above its latest version %d", k.MinEncryption, k.Latest)
	}
	return nil
}

func isAEAD(kind string) bool {
	switch kind {
	case "aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305":
		return true
	}
	return false
}

// String is the key's name for people.
func (k Key) String() string {
	return fmt.Sprintf("%s, latest version %d, min_decryption_version %d", k.Type, k.Latest, k.MinDecryption)
}
