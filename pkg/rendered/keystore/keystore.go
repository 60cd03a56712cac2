// Package keystore makes key stores and trust stores from PEM: PKCS#12, Java's JKS and a PEM
// bundle.
//
// PKCS#12 and JKS need salts. Different contents must have different salts, but salts need not be
// random: this package derives them from the input. So the same input makes the same store, byte
// for byte, at each refresh, on each node and after a restart, and the driver need not save
// anything.
package keystore

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"

	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"
)

// Format is a kind of store.
type Format string

// The formats.
const (
	PKCS12 Format = "pkcs12"
	JKS    Format = "jks"
	Bundle Format = "pem-bundle"
)

// DefaultPassword is Java's default.
const DefaultPassword = "changeit"

// DefaultAlias names the key in a JKS store.
const DefaultAlias = "certificate"

// Limits of the input.
const (
	maxPEM       = 1 << 20 // bytes
	maxBlocks    = 1000
	minJKS       = 6 // characters of a password, by Java's rule
	maxPassword  = 1024
	aliasOfChain = "ca"
)

// Input is the input of a store, as PEM. Without Certificate and Key the store is a trust store of
// the certificates in Chain.
type Input struct {
	// Certificate begins with the certificate of Key; more certificates belong to its chain.
	Certificate, Key, Chain []byte
	// Password opens the store and the key in it.
	Password []byte
	// Alias is the name of the key in a JKS store.
	Alias string
}

// Problem names the part of the input that is wrong, without its content.
type Problem struct {
	Part string // a field of Input, in lower case
	What string
}

func (p *Problem) Error() string { return p.Part + " " + p.What }

func problem(part, format string, args ...any) error {
	return &Problem{part, fmt.Sprintf(format, args...)}
}

// contents is the parsed input.
type contents struct {
	leaf   *x509.Certificate // nil for a trust store
	chain  []*x509.Certificate
	key    crypto.PrivateKey
	pkcs8  []byte
	keyPEM *pem.Block
}

// Make makes a store. The error for a wrong input is a *Problem.
func Make(f Format, in Input) ([]byte, error) {
	c, err := in.read()
	if err != nil {
		return nil, err
	}
	switch f {
	case Bundle:
		return c.bundle(), nil
	case PKCS12:
		err = checkPassword(in.Password, 1)
	case JKS:
		err = checkPassword(in.Password, minJKS)
	default:
		return nil, fmt.Errorf("there is no format %q", f)
	}
	if err != nil {
		return nil, err
	}
	salt := newSalts(f, c, in)
	if f == PKCS12 {
		return c.pkcs12(salt, string(in.Password))
	}
	return c.jks(salt, in)
}

func checkPassword(password []byte, least int) error {
	if len(password) < least || len(password) > maxPassword {
		return problem("password", "must have from %d to %d characters", least, maxPassword)
	}
	for _, c := range password {
		if c < ' ' || c > '~' {
			return problem("password", "must be printable ASCII, without a line break at the end: programs do not agree on how others are encoded")
		}
	}
	return nil
}

func (in Input) read() (*contents, error) {
	c := &contents{}
	if len(in.Certificate) > 0 || len(in.Key) > 0 {
		list, err := certificates("certificate", in.Certificate)
		if err != nil {
			return nil, err
		}
		c.leaf, c.chain = list[0], list[1:]
		if err := c.readKey(in.Key); err != nil {
			return nil, err
		}
	}
	if len(in.Chain) == 0 {
		if c.leaf == nil {
			return nil, problem("chain", "is empty, and there is no certificate and key either")
		}
		return c, nil
	}
	list, err := certificates("chain", in.Chain)
	if err != nil {
		return nil, err
	}
	for _, one := range list {
		if !c.has(one) {
			c.chain = append(c.chain, one)
		}
	}
	return c, nil
}

func (c *contents) has(one *x509.Certificate) bool {
	if c.leaf != nil && c.leaf.Equal(one) {
		return true
	}
	for _, other := range c.chain {
		if other.Equal(one) {
			return true
		}
	}
	return false
}

func certificates(part string, text []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	blocks, err := blocksOf(part, text)
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, problem(part, "has a certificate (number %d) that cannot be read", len(list)+1)
		}
		list = append(list, one)
	}
	if len(list) == 0 {
		return nil, problem(part, "has no PEM block CERTIFICATE")
	}
	return list, nil
}

func blocksOf(part string, text []byte) (blocks []*pem.Block, err error) {
	if len(text) > maxPEM {
		return nil, problem(part, "is %d bytes long, more than %d", len(text), maxPEM)
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return blocks, nil
		}
		if text = rest; len(blocks) == maxBlocks {
			return nil, problem(part, "has more than %d PEM blocks", maxBlocks)
		}
		blocks = append(blocks, block)
	}
}

// readKey reads the first private key, which must belong to the certificate.
func (c *contents) readKey(text []byte) error {
	blocks, err := blocksOf("key", text)
	if err != nil {
		return err
	}
	for _, block := range blocks {
		switch block.Type {
		case "PRIVATE KEY":
			c.key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			c.key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			c.key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return problem("key", "is encrypted: store it without a password")
		default: // such as EC PARAMETERS
			continue
		}
		if err != nil || len(block.Headers) > 0 {
			return problem("key", "cannot be read, or is encrypted")
		}
		c.keyPEM = block
		break
	}
	if c.key == nil {
		return problem("key", "has no PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY")
	}
	signer, ok := c.key.(crypto.Signer)
	if !ok {
		return problem("key", "is of a kind that certificates have not")
	}
	public, ok := signer.Public().(interface{ Equal(x crypto.PublicKey) bool })
	if !ok || !public.Equal(c.leaf.PublicKey) {
		return problem("key", "is not that of the first certificate")
	}
	if c.pkcs8, err = x509.MarshalPKCS8PrivateKey(c.key); err != nil {
		return problem("key", "has no PKCS #8 form")
	}
	return nil
}

// bundle returns the certificate, its chain and the key in one file, as HAProxy and other programs
// read them.
func (c *contents) bundle() []byte {
	var out bytes.Buffer
	list := c.chain
	if c.leaf != nil {
		list = append([]*x509.Certificate{c.leaf}, list...)
	}
	for _, one := range list {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Raw}))
	}
	if c.keyPEM != nil {
		out.Write(pem.EncodeToMemory(c.keyPEM))
	}
	return out.Bytes()
}

func (c *contents) pkcs12(salt *salts, password string) ([]byte, error) {
	encoder := pkcs12.Modern2023.WithRand(salt)
	if c.leaf == nil {
		entries := make([]pkcs12.TrustStoreEntry, len(c.chain))
		for i, one := range c.chain {
			entries[i] = pkcs12.TrustStoreEntry{Cert: one, FriendlyName: trustAlias(i)}
		}
		out, err := encoder.EncodeTrustStoreEntries(entries, password)
		if err != nil {
			return nil, problem("chain", "cannot be put into a PKCS #12 store")
		}
		return out, nil
	}
	out, err := encoder.Encode(c.key, c.leaf, c.chain, password)
	if err != nil {
		return nil, problem("key", "cannot be put into a PKCS #12 store")
	}
	return out, nil
}

func trustAlias(i int) string {
	if i == 0 {
		return aliasOfChain
	}
	return fmt.Sprintf("%s-%d", aliasOfChain, i)
}

// jks dates the entries by their certificates. With the current time every store would be
// different.
func (c *contents) jks(salt *salts, in Input) ([]byte, error) {
	store := jks.New(jks.WithOrderedAliases(), jks.WithCustomRandomNumberGenerator(salt))
	var err error
	if c.leaf == nil {
		for i, one := range c.chain {
			entry := jks.TrustedCertificateEntry{CreationTime: one.NotBefore, Certificate: jks.Certificate{Type: "X509", Content: one.Raw}}
			err = errors.Join(err, store.SetTrustedCertificateEntry(trustAlias(i), entry))
		}
	} else {
		entry := jks.PrivateKeyEntry{CreationTime: c.leaf.NotBefore, PrivateKey: bytes.Clone(c.pkcs8)}
		for _, one := range append([]*x509.Certificate{c.leaf}, c.chain...) {
			entry.CertificateChain = append(entry.CertificateChain, jks.Certificate{Type: "X509", Content: one.Raw})
		}
		err = store.SetPrivateKeyEntry(in.Alias, entry, bytes.Clone(in.Password))
	}
	var out bytes.Buffer
	if err == nil {
		err = store.Store(&out, bytes.Clone(in.Password))
	}
	if err != nil {
		return nil, problem("certificate", "cannot be put into a JKS store with this key and alias")
	}
	return out.Bytes(), nil
}

// salts is a source of bytes that nobody can predict without the private key: HMACs of a counter,
// with a key derived from all inputs. The password is one of the inputs only if there is a private
// key: without one, a salt of the password would let an attacker try passwords faster than with the
// store's own slow hash.
type salts struct {
	key     []byte
	counter uint64
	left    []byte
}

func newSalts(f Format, c *contents, in Input) *salts {
	mac := hmac.New(sha256.New, append([]byte("mayfly keystore 1 "), c.pkcs8...))
	part := func(b []byte) {
		_, _ = mac.Write(binary.AppendUvarint(nil, uint64(len(b))))
		_, _ = mac.Write(b)
	}
	part([]byte(f))
	part([]byte(in.Alias))
	if c.leaf != nil {
		part(in.Password)
		part(c.leaf.Raw)
	}
	for _, one := range c.chain {
		part(one.Raw)
	}
	return &salts{key: mac.Sum(nil)}
}

// Read implements io.Reader. It never fails.
func (s *salts) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if len(s.left) == 0 {
			mac := hmac.New(sha256.New, s.key)
			_, _ = mac.Write(binary.BigEndian.AppendUint64(nil, s.counter))
			s.counter++
			s.left = mac.Sum(nil)
		}
		copied := copy(p[n:], s.left)
		n, s.left = n+copied, s.left[copied:]
	}
	return len(p), nil
}
