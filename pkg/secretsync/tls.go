package secretsync

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
)

const certificateBlock = "CERTIFICATE"

// certificatesOf returns the certificates in a file of PEM blocks or PKCS #12, as PEM.
func certificatesOf(contents []byte) ([]byte, error) {
	blocks, err := blocksOf(contents)
	if err != nil {
		return nil, err
	}
	return encode(blocks, "certificate", func(b *pem.Block) bool { return b.Type == certificateBlock })
}

// privateKeyOf returns the private key in a file of PEM blocks or PKCS #12, as PEM.
func privateKeyOf(contents []byte) ([]byte, error) {
	blocks, err := blocksOf(contents)
	if err != nil {
		return nil, err
	}
	return encode(blocks, "private key", func(b *pem.Block) bool { return strings.HasSuffix(b.Type, "PRIVATE KEY") })
}

func encode(blocks []*pem.Block, what string, take func(*pem.Block) bool) ([]byte, error) {
	var out bytes.Buffer
	for _, b := range blocks {
		if !take(b) {
			continue
		}
		if b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "" {
			return nil, errors.New("the private key is encrypted, so nothing could read it: store it without a passphrase")
		}
		if err := pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes}); err != nil {
			return nil, errors.New("a PEM block cannot be encoded")
		}
	}
	if out.Len() == 0 {
		return nil, errors.New("there is no " + what + " in it, neither as PEM nor as PKCS #12 without a password")
	}
	return out.Bytes(), nil
}

// blocksOf reads PEM, or PKCS #12 without a password, which may be in base64.
func blocksOf(contents []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	for rest := contents; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		blocks = append(blocks, b)
	}
	if len(blocks) > 0 {
		return blocks, nil
	}
	der := contents
	if plain, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(contents), nil))); err == nil {
		der = plain
	}
	key, leaf, chain, err := pkcs12.DecodeChain(der, "")
	if err != nil {
		return nil, errors.New("it is neither PEM nor PKCS #12 without a password")
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the private key in the PKCS #12 file is of an unknown kind")
	}
	blocks = []*pem.Block{{Type: "PRIVATE KEY", Bytes: encoded}}
	for _, c := range append([]*x509.Certificate{leaf}, chain...) {
		blocks = append(blocks, &pem.Block{Type: certificateBlock, Bytes: c.Raw})
	}
	return blocks, nil
}

// checkPair requires a certificate and its private key, and puts that certificate before
// its chain, where servers expect it.
func checkPair(data map[string][]byte) error {
	cert, key := data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey]
	switch {
	case len(cert) == 0:
		return missing(corev1.SecretTypeTLS, corev1.TLSCertKey)
	case len(key) == 0:
		return missing(corev1.SecretTypeTLS, corev1.TLSPrivateKeyKey)
	}
	if _, err := tls.X509KeyPair(cert, key); err == nil {
		return nil
	}
	ordered := leafFirst(cert, key)
	if _, err := tls.X509KeyPair(ordered, key); err != nil {
		return fault.New(fault.InvalidClass, "%s and %s do not belong together, or one of them is damaged", corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	data[corev1.TLSCertKey] = ordered
	return nil
}

// leafFirst returns the certificates with that of the key first, if there is one.
func leafFirst(certs, key []byte) []byte {
	var blocks []*pem.Block
	at := -1
	for rest := certs; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if at < 0 && fits(b, key) {
			at = len(blocks)
		}
		blocks = append(blocks, b)
	}
	if at < 0 {
		return certs
	}
	leaf := blocks[at]
	var out bytes.Buffer
	for _, b := range append([]*pem.Block{leaf}, slices.Delete(blocks, at, at+1)...) {
		_ = pem.Encode(&out, b) // a buffer takes everything
	}
	return out.Bytes()
}

func fits(b *pem.Block, key []byte) bool {
	_, err := tls.X509KeyPair(pem.EncodeToMemory(b), key)
	return err == nil
}
