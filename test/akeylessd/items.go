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
	"maps"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// The item types of describe-item.
const (
	typeStatic      = "STATIC_SECRET"
	typeRotated     = "ROTATED_SECRET"
	typeDynamic     = "DYNAMIC_SECRET"
	typeCertificate = "CERTIFICATE"
	typeIssuer      = "PKI_CERT_ISSUER"
)

type item struct {
	name     string
	kind     string
	values   []any // by version, the first is version 1
	modified time.Time
	next     time.Time // rotation
	ttl      time.Duration
}

// lease is one dynamic credential.
type lease struct {
	item    string
	expires time.Time
}

func (s *Server) put(name, kind string, change func(*item)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[name]
	if it == nil || it.kind != kind {
		it = &item{name: name, kind: kind}
		s.items[name] = it
	}
	it.modified = s.options.Now()
	change(it)
}

// PutStatic adds a version of a static secret: a text, or the value of a JSON or password secret.
func (s *Server) PutStatic(name string, value any) {
	s.put(name, typeStatic, func(it *item) { it.values = append(it.values, value) })
}

// PutRotated adds a version of a rotated secret, with the time of the next one.
func (s *Server) PutRotated(name string, value any, next time.Time) {
	s.put(name, typeRotated, func(it *item) { it.values, it.next = append(it.values, value), next })
}

// PutCertificate adds a version of a stored certificate with its key.
func (s *Server) PutCertificate(name, certificate, key string) {
	s.put(name, typeCertificate, func(it *item) {
		it.values = append(it.values, map[string]any{"certificate_pem": certificate, "private_key_pem": key})
	})
}

// PutDynamic adds a dynamic secret whose credentials live for ttl, in whole
// minutes.
func (s *Server) PutDynamic(name string, ttl time.Duration) {
	s.put(name, typeDynamic, func(it *item) { it.ttl = ttl })
}

// PutIssuer adds a PKI certificate issuer.
func (s *Server) PutIssuer(name string, ttl time.Duration) {
	s.put(name, typeIssuer, func(it *item) { it.ttl = ttl })
}

// Delete removes an item.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.items, name)
}

// Credentials counts the dynamic credentials that were issued, and those that are still valid.
func (s *Server) Credentials() (issued, alive int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	maps.DeleteFunc(s.alive, func(_ string, l lease) bool { return !now.Before(l.expires) })
	return s.credentials, len(s.alive)
}

// Certificates counts the PKI certificates that were issued.
func (s *Server) Certificates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}

// find is an item that the caller may know of.
func (s *Server) find(who *session, name, kind string) (*item, *answer) {
	name = "/" + strings.TrimPrefix(name, "/")
	it := s.items[name]
	var refusal answer
	switch {
	case s.rule(who, name) == nil:
		refusal = failure(403, "Forbidden: access to item %s is denied", name)
	case it == nil:
		refusal = failure(404, "item %s was not found", name)
	case it.kind != kind:
		refusal = failure(400, "item %s is not a %s", name, kind)
	default:
		return it, nil
	}
	return nil, &refusal
}

// version picks one of an item's values; 0 is the last.
func (it *item) version(n int) (any, *answer) {
	if n == 0 {
		n = len(it.values)
	}
	if n < 1 || n > len(it.values) {
		refusal := failure(404, "version %d of item %s was not found", n, it.name)
		return nil, &refusal
	}
	return it.values[n-1], nil
}

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
