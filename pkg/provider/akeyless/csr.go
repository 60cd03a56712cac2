package akeyless

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/url"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const defaultKeyType = "ec256"

// keyMakers are the values of the argument keyType.
func keyMakers() map[string]func() (crypto.Signer, error) {
	curve := func(c elliptic.Curve) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
	}
	bits := func(n int) func() (crypto.Signer, error) {
		return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, n) }
	}
	return map[string]func() (crypto.Signer, error){
		"ec256": curve(elliptic.P256()), "ec384": curve(elliptic.P384()),
		"rsa2048": bits(2048), "rsa3072": bits(3072), "rsa4096": bits(4096),
	}
}

// certificateRequest creates a key and a signing request with all names: if there is a
// request, Akeyless ignores other names. If the class has its own request, there is no
// key.
func certificateRequest(args arguments) (request, key string, err error) {
	if own := args[argCSR]; own != "" {
		return own, "", nil
	}
	keyType := args[argKeyType]
	if keyType == "" {
		keyType = defaultKeyType
	}
	signer, err := keyMakers()[keyType]()
	if err != nil {
		return "", "", fault.New(fault.Internal, "making a private key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template(args), signer)
	if err != nil {
		return "", "", fault.New(fault.InvalidClass, "making a certificate signing request of secretArgs: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return "", "", fault.New(fault.Internal, "writing a private key: %w", err)
	}
	request = base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return request, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), nil
}

func template(args arguments) *x509.CertificateRequest {
	t := &x509.CertificateRequest{Subject: pkix.Name{CommonName: args[argCommonName]}}
	for _, name := range list(args[argAltNames]) {
		switch ip := net.ParseIP(name); {
		case ip != nil:
			t.IPAddresses = append(t.IPAddresses, ip)
		case strings.Contains(name, "@"):
			t.EmailAddresses = append(t.EmailAddresses, name)
		default:
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	for _, text := range list(args[argURISANs]) {
		if u, err := url.Parse(text); err == nil {
			t.URIs = append(t.URIs, u)
		}
	}
	return t
}

func list(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
