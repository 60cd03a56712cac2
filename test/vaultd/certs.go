package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certLifetime outlasts any test run.
const certLifetime = 7 * 24 * time.Hour

// tlsFiles are the paths of a client's files.
type tlsFiles struct {
	ca, clientCert, clientKey string
}

// newTLS makes a certificate authority, a server certificate for this machine's loopback names and
// a client certificate. It does not store the CA's key.
func newTLS(dir string, now time.Time) (*tls.Config, tlsFiles, error) {
	files := tlsFiles{
		ca:         filepath.Join(dir, "ca.pem"),
		clientCert: filepath.Join(dir, "client.pem"),
		clientKey:  filepath.Join(dir, "client-key.pem"),
	}
	ca, err := newAuthority(now)
	if err != nil {
		return nil, files, fmt.Errorf("making the certificate authority: %w", err)
	}
	server, err := ca.issue("vaultd", x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, files, fmt.Errorf("making the server certificate: %w", err)
	}
	client, err := ca.issue("vaultd-client", x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, files, fmt.Errorf("making the client certificate: %w", err)
	}
	if err := files.write(dir, ca, client); err != nil {
		return nil, files, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{server},
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}, files, nil
}

func (f tlsFiles) write(dir string, ca *authority, client tls.Certificate) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the TLS directory: %w", err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	if err != nil {
		return fmt.Errorf("encoding the client key: %w", err)
	}
	for _, out := range []struct {
		path, kind string
		der        []byte
		mode       os.FileMode
	}{
		{f.ca, "CERTIFICATE", ca.cert.Raw, 0o644},
		{f.clientCert, "CERTIFICATE", client.Certificate[0], 0o644},
		{f.clientKey, "PRIVATE KEY", key, 0o600},
	} {
		block := pem.EncodeToMemory(&pem.Block{Type: out.kind, Bytes: out.der})
		if err := os.WriteFile(out.path, block, out.mode); err != nil {
			return fmt.Errorf("writing TLS file: %w", err)
		}
	}
	return nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate("vaultd test CA", now.Add(-time.Minute), now.Add(certLifetime))
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, nil
}

func (a *authority) issue(name string, usage x509.ExtKeyUsage) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template, err := newTemplate(name, a.cert.NotBefore, a.cert.NotAfter)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	if usage == x509.ExtKeyUsageServerAuth {
		template.DNSNames = []string{"localhost"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func newTemplate(name string, from, to time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    from,
		NotAfter:     to,
	}, nil
}
