package keystore_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/mayfly-csi/mayfly/pkg/rendered/keystore"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const password = "opensesame"

// issue makes a CA, and a certificate of it, with the key in the form given.
func issue(t testing.TB, form string) keystore.Input {
	t.Helper()
	caKey := testkit.Value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(9e9, 0), IsCA: true, BasicConstraintsValid: true}
	ca := testkit.Value(x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey))(t)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "web"}, NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(9e9, 0)}
	in := keystore.Input{Chain: encode("CERTIFICATE", ca), Password: []byte(password), Alias: keystore.DefaultAlias}
	var public any
	switch form {
	case "RSA PRIVATE KEY":
		key := testkit.Value(rsa.GenerateKey(rand.Reader, 2048))(t)
		public, in.Key = key.Public(), encode(form, x509.MarshalPKCS1PrivateKey(key))
	case "EC PRIVATE KEY":
		key := testkit.Value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		der := testkit.Value(x509.MarshalECPrivateKey(key))(t)
		public, in.Key = key.Public(), encode(form, der)
	default:
		key := testkit.Value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		der := testkit.Value(x509.MarshalPKCS8PrivateKey(key))(t)
		public, in.Key = key.Public(), encode("PRIVATE KEY", der)
	}
	der := testkit.Value(x509.CreateCertificate(rand.Reader, leaf, root, public, caKey))(t)
	in.Certificate = encode("CERTIFICATE", der)
	return in
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func trust(in keystore.Input) keystore.Input {
	in.Certificate, in.Key = nil, nil
	return in
}

func TestStoresOpen(t *testing.T) {
	for _, form := range []string{"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"} {
		in := issue(t, form)
		p12 := testkit.Value(keystore.Make(keystore.PKCS12, in))(t)
		key, leaf, chain, err := pkcs12.DecodeChain(p12, password)
		if err != nil || key == nil || leaf.Subject.CommonName != "web" || len(chain) != 1 {
			t.Errorf("%s: PKCS#12: %v", form, err)
		}
		java := testkit.Value(keystore.Make(keystore.JKS, in))(t)
		store := jks.New()
		testkit.Must(t, store.Load(bytes.NewReader(java), []byte(password)))
		entry, err := store.GetPrivateKeyEntry(keystore.DefaultAlias, []byte(password))
		if err != nil || len(entry.CertificateChain) != 2 {
			t.Errorf("%s: JKS: %v", form, err)
		}
		bundle, err := keystore.Make(keystore.Bundle, in)
		if want := slices.Concat(in.Certificate, in.Chain, in.Key); err != nil || !bytes.Equal(bundle, want) {
			t.Errorf("%s: the bundle is %s, %v", form, bundle, err)
		}
	}
}

// Java and OpenSSL themselves open the stores, where the machine has them.
func TestStoresOpenElsewhere(t *testing.T) {
	in, dir := issue(t, "RSA PRIVATE KEY"), t.TempDir()
	for _, c := range []struct {
		tool, file string
		format     keystore.Format
		in         keystore.Input
		args       []string
		want       string
	}{
		{"openssl", "key.p12", keystore.PKCS12, in, []string{"pkcs12", "-info", "-nodes", "-passin", "pass:" + password, "-in"}, "PRIVATE KEY"},
		{"keytool", "key.p12", keystore.PKCS12, in, []string{"-list", "-v", "-storetype", "PKCS12", "-storepass", password, "-keystore"}, "PrivateKeyEntry"},
		{"keytool", "trust.p12", keystore.PKCS12, trust(in), []string{"-list", "-storetype", "PKCS12", "-storepass", password, "-keystore"}, "trustedCertEntry"},
		{"keytool", "key.jks", keystore.JKS, in, []string{"-list", "-v", "-storetype", "JKS", "-storepass", password, "-keystore"}, "Certificate chain length: 2"},
		{"keytool", "trust.jks", keystore.JKS, trust(in), []string{"-list", "-storetype", "JKS", "-storepass", password, "-keystore"}, "trustedCertEntry"},
	} {
		tool, err := exec.LookPath(c.tool)
		if err != nil {
			t.Logf("%s is not on this machine", c.tool)
			continue
		}
		out := testkit.Value(keystore.Make(c.format, c.in))(t)
		path := filepath.Join(dir, c.file)
		testkit.Must(t, os.WriteFile(path, out, 0o600))
		said, err := exec.Command(tool, append(c.args, path)...).CombinedOutput()
		if err != nil || !strings.Contains(string(said), c.want) {
			t.Errorf("%s of %s: %v\n%s", c.tool, c.file, err, said)
		}
	}
}

// The same contents make the same bytes; any other contents other salts, and so
// other bytes throughout.
func TestStoresAreTheSame(t *testing.T) {
	in := issue(t, "PRIVATE KEY")
	other := in
	other.Password = []byte("another password")
	for _, f := range []keystore.Format{keystore.PKCS12, keystore.JKS} {
		for name, in := range map[string]keystore.Input{"key": in, "trust": trust(in)} {
			one := testkit.Value(keystore.Make(f, in))(t)
			two, err := keystore.Make(f, in)
			if testkit.Must(t, err); !bytes.Equal(one, two) {
				t.Errorf("%s %s: two stores of the same contents differ", f, name)
			}
		}
		one := testkit.Value(keystore.Make(f, in))(t)
		two, err := keystore.Make(f, other)
		if testkit.Must(t, err); bytes.Equal(one, two) {
			t.Errorf("%s: another password makes the same store", f)
		}
	}
}

func TestProblems(t *testing.T) {
	good, other := issue(t, "PRIVATE KEY"), issue(t, "PRIVATE KEY")
	for _, c := range []struct {
		format keystore.Format
		change func(in *keystore.Input)
		part   string
	}{
		{keystore.PKCS12, func(in *keystore.Input) { in.Key = other.Key }, "key"},
		{keystore.PKCS12, func(in *keystore.Input) { in.Key = nil }, "key"},
		{keystore.PKCS12, func(in *keystore.Input) { in.Certificate = []byte("s3cr3t") }, "certificate"},
		{keystore.PKCS12, func(in *keystore.Input) { in.Chain = encode("CERTIFICATE", []byte("s3cr3t")) }, "chain"},
		{keystore.PKCS12, func(in *keystore.Input) { *in = keystore.Input{Password: in.Password} }, "chain"},
		{keystore.PKCS12, func(in *keystore.Input) { in.Password = nil }, "password"},
		{keystore.JKS, func(in *keystore.Input) { in.Password = []byte("s3cr") }, "password"},
		{keystore.JKS, func(in *keystore.Input) { in.Password = []byte("s3cr3t\n") }, "password"},
		{keystore.Bundle, func(in *keystore.Input) { in.Chain = bytes.Repeat(in.Chain, 1<<14) }, "chain"},
		{keystore.Bundle, func(in *keystore.Input) { in.Key = encode("ENCRYPTED PRIVATE KEY", nil) }, "key"},
	} {
		in := good
		c.change(&in)
		_, err := keystore.Make(c.format, in)
		var p *keystore.Problem
		if !errors.As(err, &p) || p.Part != c.part || strings.Contains(err.Error(), "s3cr") {
			t.Errorf("%s: %v, want a problem of the %s", c.format, err, c.part)
		}
	}
}

func FuzzMake(f *testing.F) {
	in := issue(f, "EC PRIVATE KEY")
	f.Add(in.Certificate, in.Key, in.Chain, in.Password, in.Alias)
	f.Fuzz(func(t *testing.T, certificate, key, chain, password []byte, alias string) {
		for _, format := range []keystore.Format{keystore.PKCS12, keystore.JKS, keystore.Bundle} {
			_, err := keystore.Make(format, keystore.Input{Certificate: certificate, Key: key, Chain: chain, Password: password, Alias: alias})
			var p *keystore.Problem
			if err != nil && !errors.As(err, &p) {
				t.Errorf("%v is no problem of the input", err)
			}
		}
	})
}
