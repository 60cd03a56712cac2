package scan

import (
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// TransitVersion returns the version of the Transit key that a value of mayfly-kms needs. It reads
// it from the ciphertext that Vault must decrypt: that of the local key if there is one, or else
// that of the seed.
func TransitVersion(v stored.Value) (int, bool) {
	if v.Provider != stored.KMSv2 {
		return 0, false
	}
	ciphertext, local := v.Annotations[key.AnnotationLocalKey]
	if !local {
		ciphertext = v.EncryptedSource
	}
	return transit.Version(string(ciphertext))
}
