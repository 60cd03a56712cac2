package secretsync

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// pair is a certificate with its authority's, and the key.
type pair struct {
	key         *ecdsa.PrivateKey
	leaf, chain *x509.Certificate
}

func newPair(t *testing.T) pair {
	t.Helper()
	issue := func(name string, ca bool, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key := testkit.Value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		}
		if parent == nil {
			parent, signer = template, key
		}
		der := testkit.Value(x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer))(t)
		cert := testkit.Value(x509.ParseCertificate(der))(t)
		return cert, key
	}
	ca, caKey := issue("ca", true, nil, nil)
	leaf, key := issue("leaf", false, ca, caKey)
	return pair{key, leaf, ca}
}

func certPEM(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func (p pair) keyPEM(t *testing.T) []byte {
	t.Helper()
	der := testkit.Value(x509.MarshalPKCS8PrivateKey(p.key))(t)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// TestTLS makes a Secret of TLS from each form that stores have.
func TestTLS(t *testing.T) {
	p, other := newPair(t), newPair(t)
	pfx := testkit.Value(pkcs12.Modern.Encode(p.key, p.leaf, []*x509.Certificate{p.chain}, ""))(t)
	locked := testkit.Value(pkcs12.Modern.Encode(p.key, p.leaf, nil, "password"))(t)
	bundle := append(p.keyPEM(t), certPEM(p.leaf, p.chain)...)
	sealed := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	for name, tc := range map[string]struct {
		cert, key []byte
		want      string // of the error
	}{
		"two files":            {certPEM(p.leaf, p.chain), p.keyPEM(t), ""},
		"one file of both":     {bundle, bundle, ""},
		"authority first":      {certPEM(p.chain, p.leaf), p.keyPEM(t), ""},
		"PKCS 12":              {pfx, pfx, ""},
		"PKCS 12 in base64":    {[]byte(base64.StdEncoding.EncodeToString(pfx) + "\n"), pfx, ""},
		"PKCS 12, password":    {locked, locked, "neither PEM nor PKCS #12"},
		"another's key":        {certPEM(p.leaf), other.keyPEM(t), "do not belong together"},
		"no key":               {certPEM(p.leaf), certPEM(p.leaf), "there is no private key"},
		"no certificate":       {p.keyPEM(t), p.keyPEM(t), "there is no certificate"},
		"an encrypted key":     {certPEM(p.leaf), sealed, "is encrypted"},
		"a password by chance": {[]byte("hunter2-secret"), p.keyPEM(t), "neither PEM nor PKCS #12"},
		"nothing":              {nil, nil, "neither PEM nor PKCS #12"},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string][]byte{}
			var err error
			if data["tls.crt"], err = partOf("kubernetes.io/tls", "tls.crt", tc.cert); err == nil {
				data["tls.key"], err = partOf("kubernetes.io/tls", "tls.key", tc.key)
			}
			if err == nil {
				err = check("kubernetes.io/tls", data)
			}
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("error %v, want %q", err, tc.want)
				}
				return
			}
			testkit.Must(t, err)
			got, err := tls.X509KeyPair(data["tls.crt"], data["tls.key"])
			if err != nil || !bytes.Equal(got.Certificate[0], p.leaf.Raw) || len(got.Certificate) != 2 || !bytes.Equal(got.Certificate[1], p.chain.Raw) {
				t.Fatalf("%d certificates, %v", len(got.Certificate), err)
			}
			if bytes.Contains(data["tls.crt"], []byte("PRIVATE")) || bytes.Contains(data["tls.key"], []byte("CERTIFICATE")) {
				t.Error("the file was not split")
			}
		})
	}
}

func TestCheck(t *testing.T) {
	one := func(key, value string) map[string][]byte { return map[string][]byte{key: []byte(value)} }
	for name, tc := range map[string]struct {
		kind string
		data map[string][]byte
		want string
	}{
		"docker":                 {"kubernetes.io/dockerconfigjson", one(".dockerconfigjson", `{"auths":{"r.example":{"auth":"x"}}}`), ""},
		"docker, another key":    {"kubernetes.io/dockerconfigjson", one("config.json", `{"auths":{"r":{}}}`), "needs the key .dockerconfigjson"},
		"docker, no JSON":        {"kubernetes.io/dockerconfigjson", one(".dockerconfigjson", `hunter2-secret`), "not a JSON object"},
		"docker, null":           {"kubernetes.io/dockerconfigjson", one(".dockerconfigjson", `null`), "not a JSON object"},
		"docker, no auths":       {"kubernetes.io/dockerconfigjson", one(".dockerconfigjson", `{"r.example":{}}`), `no "auths"`},
		"docker, auths a string": {"kubernetes.io/dockerconfigjson", one(".dockerconfigjson", `{"auths":"x"}`), `no "auths"`},
		"docker of old":          {"kubernetes.io/dockercfg", one(".dockercfg", `{"r.example":{}}`), ""},
		"basic":                  {"kubernetes.io/basic-auth", one("password", "x"), ""},
		"basic, nothing":         {"kubernetes.io/basic-auth", one("pass", "x"), "username or password"},
		"ssh":                    {"kubernetes.io/ssh-auth", one("ssh-privatekey", "x"), ""},
		"ssh, empty":             {"kubernetes.io/ssh-auth", one("ssh-privatekey", ""), "ssh-privatekey"},
		"opaque":                 {"Opaque", one("a", "x"), ""},
		"another's type":         {"example.com/token", one("a", "x"), ""},
		"too large":              {"Opaque", one("a", strings.Repeat("x", maxData+1)), "1048577 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(tc.kind, tc.data)
			if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2")) {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// FuzzPart: whatever a file holds, what comes of it is PEM or an error that
// does not quote it.
func FuzzPart(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("MIIB"))
	f.Add([]byte{0x30, 0x80, 0x02, 0x01, 0x03})
	f.Fuzz(func(t *testing.T, contents []byte) {
		for _, key := range []string{"tls.crt", "tls.key"} {
			part, err := partOf("kubernetes.io/tls", key, contents)
			if err == nil {
				if block, _ := pem.Decode(part); block == nil {
					t.Fatalf("no PEM of %q", contents)
				}
				_ = check("kubernetes.io/tls", map[string][]byte{"tls.crt": part, "tls.key": part})
			} else if len(contents) > 20 && strings.Contains(err.Error(), string(contents)) {
				t.Fatalf("the error quotes the file: %v", err)
			}
		}
	})
}
