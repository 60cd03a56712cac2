package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// validity is that of all certificates: a node is made anew more often.
const validity = 365 * 24 * time.Hour

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// identity is what a certificate is for: a client's name and group, the hosts
// of a server, or both.
type identity struct {
	name, group string
	hosts       []string
}

// keyPair is a certificate and its key in PEM.
type keyPair struct {
	cert, key []byte
}

func newAuthority(name string) (authority, []byte, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, nil, fmt.Errorf("making the key of %s: %w", name, err)
	}
	// An authority without a certificate yet: it signs its own.
	der, err := authority{cert: template, key: key}.sign(template, key.Public())
	if err != nil {
		return authority{}, nil, fmt.Errorf("signing the certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, nil, fmt.Errorf("parsing the certificate of %s: %w", name, err)
	}
	return authority{cert: cert, key: key}, encode("CERTIFICATE", der), nil
}

func (a authority) sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	// An hour of leeway for a clock that is set back while the node runs.
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(validity)
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

func (a authority) issue(id identity) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("making the key of %s: %w", id.name, err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if id.group != "" {
		template.Subject.Organization = []string{id.group}
	}
	for _, host := range id.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := a.sign(template, key.Public())
	if err != nil {
		return keyPair{}, fmt.Errorf("signing the certificate of %s: %w", id.name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, fmt.Errorf("encoding the key of %s: %w", id.name, err)
	}
	return keyPair{cert: encode("CERTIFICATE", der), key: encode("PRIVATE KEY", private)}, nil
}

// newServiceAccountKey makes the key that signs service account tokens: RSA,
// as in nearly every cluster, so that verifiers meet what they will meet there.
func newServiceAccountKey() (keyPair, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return keyPair{}, fmt.Errorf("making the service account key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, fmt.Errorf("encoding the service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return keyPair{}, fmt.Errorf("encoding the public service account key: %w", err)
	}
	return keyPair{cert: encode("PUBLIC KEY", public), key: encode("PRIVATE KEY", private)}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// write writes the pair as NAME.crt and NAME.key.
func (p keyPair) write(l layout, name string) error {
	if err := os.WriteFile(l.pki(name+".crt"), p.cert, 0o600); err != nil {
		return fmt.Errorf("writing the certificate of %s: %w", name, err)
	}
	if err := os.WriteFile(l.pki(name+".key"), p.key, 0o600); err != nil {
		return fmt.Errorf("writing the key of %s: %w", name, err)
	}
	return nil
}
