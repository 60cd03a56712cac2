package akeylessd

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "akeylessd"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the authority back: %w", err)
	}
	return &authority{key, cert, encode(der)}, nil
}

func encode(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (a *authority) sign(request *x509.CertificateRequest, now time.Time, life time.Duration) (string, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject, NotBefore: now, NotAfter: now.Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
	}, a.cert, request.PublicKey, a.key)
	if err != nil {
		return "", err
	}
	return encode(der), nil
}

// Certificate is a certificate and key of the double's authority, for
// PutCertificate.
func (s *Server) Certificate(name string, life time.Duration) (certificate, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("making a key: %w", err)
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, PublicKey: crypto.PublicKey(private.Public())}
	if certificate, err = s.ca.sign(request, s.options.Now(), life); err != nil {
		return "", "", fmt.Errorf("signing: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("writing the key: %w", err)
	}
	return certificate, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func (s *Server) getPKICertificate(who *session, request map[string]json.RawMessage) answer {
	it, refusal := s.find(who, text(request, "cert-issuer-name"), typeIssuer)
	if refusal != nil {
		return *refusal
	}
	csr, err := parseRequest(text(request, "csr-data-base64"))
	if err != nil {
		return failure(http.StatusBadRequest, "invalid csr: %v", err)
	}
	life := it.ttl
	if wanted := time.Duration(number(request, "ttl")) * time.Second; wanted > it.ttl {
		return failure(http.StatusBadRequest, "ttl must be less than the issuer's %v", it.ttl)
	} else if wanted > 0 {
		life = wanted
	}
	certificate, err := s.ca.sign(csr, s.options.Now(), life)
	if err != nil {
		return failure(http.StatusInternalServerError, "signing failed: %v", err)
	}
	s.issued++
	return good(map[string]any{"data": certificate, "parent_cert": s.ca.pem, "cert_display_id": "cert-" + random(4)})
}

func parseRequest(text string) (*x509.CertificateRequest, error) {
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("it is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return csr, csr.CheckSignature()
}
