// Package kms tests mayfly-kms with the API server's own envelope encryption, in this process. It
// is a Go module of its own, because the API server's code is large.
package kms

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Provider is the name of the KMS provider in the EncryptionConfiguration.
const Provider = "mayfly"

// APIServer is kube-apiserver's part for an EncryptionConfiguration.
type APIServer struct {
	transformer value.Transformer
	checks      []healthz.HealthChecker
	stop        context.CancelFunc
}

// StartAPIServer loads an EncryptionConfiguration for Secrets, as an API server does when it
// starts. It stops at the end of the test.
func StartAPIServer(t testing.TB, socket string) *APIServer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	config := fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: %s, endpoint: "unix://%s", timeout: 3s}
  - identity: {}
`, Provider, socket)
	testkit.Must(t, os.WriteFile(path, []byte(config), 0o600))
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	loaded, err := encryptionconfig.LoadEncryptionConfig(ctx, path, false, "test-apiserver")
	testkit.Must(t, err)
	transformer, ok := loaded.Transformers[schema.GroupResource{Resource: "secrets"}]
	if !ok {
		t.Fatal("the configuration has no transformer for Secrets")
	}
	return &APIServer{transformer, loaded.HealthChecks, stop}
}

// Stop stops it.
func (a *APIServer) Stop() { a.stop() }

// Write encrypts the value of a key in etcd.
func (a *APIServer) Write(ctx context.Context, key string, plaintext []byte) ([]byte, error) {
	return a.transformer.TransformToStorage(ctx, plaintext, value.DefaultContext(key))
}

// Read decrypts the value of a key in etcd. stale says that it should be written again.
func (a *APIServer) Read(ctx context.Context, key string, stored []byte) (plaintext []byte, stale bool, err error) {
	return a.transformer.TransformFromStorage(ctx, stored, value.DefaultContext(key))
}

// Healthy runs the health checks, as a probe of /readyz does.
func (a *APIServer) Healthy() error {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "/readyz", nil)
	if err != nil {
		return err
	}
	for _, c := range a.checks {
		if err := c.Check(request); err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	return nil
}
