// The builder of the container image. It stands in a module of its own so that
// nothing of it reaches the driver.
module github.com/mayfly-csi/mayfly/hack/image

go 1.26.0

require (
	github.com/opencontainers/go-digest v1.0.0
	github.com/opencontainers/image-spec v1.1.1
	golang.org/x/crypto/x509roots/fallback v0.0.0-20261030153154-30a33513ff6d
)
