package vault_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// pair writes a client certificate and its key to a directory.
func pair(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	made, err := pki.SelfSigned(x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	testkit.Must(t, err)
	testkit.Must(t, os.MkdirAll(dir, 0o750))
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	testkit.Must(t, errors.Join(os.WriteFile(cert, made.Cert, 0o400), os.WriteFile(key, made.Key, 0o400)))
	return cert, key
}

// certServer has the cert method at auth/cert, and others for logins by token.
type certServer struct {
	*httptest.Server
	ca      string
	revoked atomic.Int64
	shown   atomic.Int64 // handshakes with a client certificate
}

func newCertServer(t *testing.T) *certServer {
	c := &certServer{ca: filepath.Join(t.TempDir(), "ca.pem")}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := ""
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
			c.shown.Add(1)
		}
		switch {
		case r.URL.Path == "/v1/auth/cert/login" && name == "":
			answering(400, `{"errors":["client certificate must be supplied"]}`)(w, r)
		case r.URL.Path == "/v1/auth/cert/login":
			fmt.Fprintf(w, `{"auth":{"client_token":"token-of-%s","lease_duration":3600,"metadata":{"cert_name":"nodes","common_name":%q}}}`, name, name)
		case strings.HasSuffix(r.URL.Path, "/login"):
			goodLogin(600)(w, r)
		case r.URL.Path == "/v1/auth/token/revoke-self":
			c.revoked.Add(1)
			w.WriteHeader(http.StatusNoContent)
		default:
			fmt.Fprintf(w, `{"data":{"k":"read with %s"}}`, r.Header.Get("X-Vault-Token"))
		}
	}))
	c.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	c.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	c.StartTLS()
	t.Cleanup(c.Close)
	testkit.Must(t, os.WriteFile(c.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}), 0o400))
	return c
}

// TestAnotherPodsKey: a class cannot log in with the TLS key that another pod
// mounts, and its error does not tell whether there is one.
func TestAnotherPodsKey(t *testing.T) {
	s := newCertServer(t)
	pods := t.TempDir() // as /var/lib/kubelet/pods
	cert, key := pair(t, filepath.Join(pods, "8d0c1f6e", "volumes", "kubernetes.io~csi", "tls", "mount"), "payments.victim")
	listed := t.TempDir()
	for name, to := range map[string]string{"cert": cert, "key": key} {
		testkit.Must(t, os.Symlink(to, filepath.Join(listed, name)))
	}
	p := newProvider(t, func(c *vault.Config) {
		c.AllowedAddresses, c.ForbidSkipVerify, c.ClassFileDirs = []string{s.URL}, true, []string{listed}
		c.DefaultTLS.CACertFile, c.AllowCertAuth = s.ca, true
	})
	refused := func(cert, key string) string {
		t.Helper()
		payload, err := p.Fetch(t.Context(), brokenRequest("v", s.URL, map[string]string{
			"vaultAuthMountPath": "cert", "vaultTLSClientCertPath": cert, "vaultTLSClientKeyPath": key,
		}))
		if fault.Of(err) != fault.NotAllowed || !strings.Contains(err.Error(), "spec.parameters.vaultTLSClientCertPath") || !strings.Contains(err.Error(), "--class-file-dirs") {
			t.Fatalf("got %v and %s: %v", payload, fault.Of(err), err)
		}
		return strings.ReplaceAll(err.Error(), cert, "")
	}
	there := refused(cert, key)
	missing := refused(cert+"x", key+"x")
	if there != missing {
		t.Errorf("the errors tell whether a file exists:\n%s\n%s", there, missing)
	}
	refused(filepath.Join(listed, "cert"), filepath.Join(listed, "key"))
	if s.shown.Load() > 0 {
		t.Error("the server was shown the other pod's certificate")
	}
}

// TestOperatorsCertificate: the operator's client certificate is presented to
// the operator's server for the operator's auth mounts alone, and no class logs
// in with it unless the operator says so.
func TestOperatorsCertificate(t *testing.T) {
	s, other := newCertServer(t), newCertServer(t)
	cert, key := pair(t, t.TempDir(), "mayfly-driver")
	for name, c := range map[string]struct {
		params  map[string]string
		adjust  func(*vault.Config)
		want    string // in the error; empty for success
		reason  fault.Reason
		shown   bool
		revoked int64
	}{
		"the default mount":   {nil, nil, "", "", true, 0},
		"another mount":       {map[string]string{"vaultAuthMountPath": "jwt"}, nil, "", "", false, 0},
		"a listed mount":      {map[string]string{"vaultAuthMountPath": "/jwt/"}, func(c *vault.Config) { c.AllowedAuthMounts = []string{"jwt"} }, "", "", true, 0},
		"a forbidden mount":   {map[string]string{"vaultAuthMountPath": "cert"}, func(c *vault.Config) { c.AllowedAuthMounts = []string{"jwt"} }, `spec.parameters.vaultAuthMountPath: this node's operator does not allow the auth mount "cert"`, fault.NotAllowed, false, 0},
		"the cert method":     {map[string]string{"vaultAuthMountPath": "cert"}, nil, "client certificate must be supplied", fault.Rejected, false, 0},
		"listed cert method":  {map[string]string{"vaultAuthMountPath": "cert"}, func(c *vault.Config) { c.AllowedAuthMounts = []string{"cert"} }, "--vault-allow-cert-auth", fault.NotAllowed, true, 1},
		"default cert method": {nil, func(c *vault.Config) { c.DefaultAuthMount = "cert" }, "--vault-allow-cert-auth", fault.NotAllowed, true, 1},
		"allowed cert method": {nil, func(c *vault.Config) { c.DefaultAuthMount, c.AllowCertAuth = "cert", true }, "", "", true, 0},
		"its file by name":    {map[string]string{"vaultTLSClientCertPath": cert, "vaultTLSClientKeyPath": key}, nil, "--class-file-dirs", fault.NotAllowed, false, 0},
		"another server":      {map[string]string{"vaultAddress": other.URL, "vaultSkipTLSVerify": "true"}, nil, "", "", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			at := s
			if c.params["vaultAddress"] != "" {
				at = other
			}
			shown, revoked := at.shown.Load(), at.revoked.Load()
			p := newProvider(t, func(config *vault.Config) {
				config.DefaultAddress, config.DefaultTLS.CACertFile = s.URL, s.ca
				config.DefaultTLS.ClientCertFile, config.DefaultTLS.ClientKeyFile = cert, key
				if c.adjust != nil {
					c.adjust(config)
				}
			})
			_, err := p.Fetch(t.Context(), brokenRequest("v", s.URL, c.params))
			if c.want == "" && err != nil || c.want != "" && (fault.Of(err) != c.reason || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %s: %v, want %s saying %q", fault.Of(err), err, c.reason, c.want)
			}
			if got := at.shown.Load() > shown; got != c.shown {
				t.Errorf("the certificate was presented: %v, want %v", got, c.shown)
			}
			if got := at.revoked.Load() - revoked; got != c.revoked {
				t.Errorf("%d Vault tokens revoked, want %d", got, c.revoked)
			}
		})
	}
}

// TestEndlessFile: a fetch does not wait for a file that its class names. /proc/kmsg is a regular file
// of size 0, and a read of it waits for the kernel's next message.
func TestEndlessFile(t *testing.T) {
	if info, err := os.Stat("/proc/kmsg"); err != nil || !info.Mode().IsRegular() {
		t.Skip("no /proc/kmsg here: ", err)
	}
	p := newProvider(t, func(c *vault.Config) { c.ClassFileDirs = []string{"/proc"} })
	_, err := p.Fetch(t.Context(), brokenRequest("v", "https://127.0.0.1:1", map[string]string{"vaultCACertPath": "/proc/kmsg"}))
	if fault.Of(err) != fault.InvalidClass || !strings.Contains(err.Error(), `reading "/proc/kmsg" for spec.parameters.vaultCACertPath: `) {
		t.Errorf("got %s: %v", fault.Of(err), err)
	}
}
