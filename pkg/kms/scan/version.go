package scan

import (
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// TransitVersion tells which version of the Transit key a value of mayfly-kms
// needs. The ciphertext that Vault must decrypt says it: that of the local key
// where there is one, or else that of the seed.
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
