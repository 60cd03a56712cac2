package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// maxPEMBytes bounds one file that a class names.
const maxPEMBytes = 1 << 20

// config reads the files and makes the client's TLS settings.
func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.SkipVerify, //nolint:gosec // the operator allows it, or ForbidSkipVerify is set
	}
	pool, err := t.roots()
	if err != nil {
		return nil, err
	}
	c.RootCAs = pool
	if t.ClientCertFile == "" {
		return c, nil
	}
	cert, err := t.clientCert()
	if err != nil {
		return nil, err
	}
	// Offered whatever authorities the server lists, because the cert auth
	// method accepts others than the listener asks for.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return c, nil
}

// roots are the authorities; nil means those of the system. A file comes
// before a directory.
func (t TLS) roots() (*x509.CertPool, error) {
	switch {
	case t.CACertFile != "":
		pool := x509.NewCertPool()
		return pool, addPEM(pool, keyCACert, t.CACertFile)
	case t.CACertDir != "":
		return t.rootsOfDir()
	}
	return nil, nil
}

func (t TLS) rootsOfDir() (*x509.CertPool, error) {
	files, err := listDir(t.CACertDir)
	if err != nil {
		return nil, badFile(keyCADir, t.CACertDir, err)
	}
	pool, found := x509.NewCertPool(), false
	for _, file := range files {
		if addPEM(pool, keyCADir, file) == nil {
			found = true
		}
	}
	if !found {
		return nil, badFile(keyCADir, t.CACertDir, errors.New("no file in it holds a PEM certificate"))
	}
	return pool, nil
}

func (t TLS) clientCert() (*tls.Certificate, error) {
	cert, err := readPEM(t.ClientCertFile)
	if err != nil {
		return nil, badFile(keyClientCert, t.ClientCertFile, err)
	}
	key, err := readPEM(t.ClientKeyFile)
	if err != nil {
		return nil, badFile(keyClientKey, t.ClientKeyFile, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, badFile(keyClientCert, t.ClientCertFile, fmt.Errorf("with the key in %q: %w", t.ClientKeyFile, err))
	}
	return &pair, nil
}

func addPEM(pool *x509.CertPool, key, file string) error {
	data, err := readPEM(file)
	if err == nil && !pool.AppendCertsFromPEM(data) {
		err = errors.New("holds no PEM certificate")
	}
	if err != nil {
		return badFile(key, file, err)
	}
	return nil
}

// readPEM refuses what is not a plain file, such as a device or a pipe that
// would never end.
func readPEM(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, bare(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case info.Size() > maxPEMBytes:
		return nil, fmt.Errorf("is larger than %d bytes", maxPEMBytes)
	}
	data, err := os.ReadFile(file) //nolint:gosec // the path is the class's or the operator's
	return data, bare(err)
}

// bare drops the path from an error, which the caller names.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func badFile(key, file string, err error) error {
	return fault.New(fault.InvalidClass, "reading %q for spec.parameters.vault%s: %w", file, key, err).
		WithHint("the path is one in the driver's container on the node")
}

// fingerprint changes when a file that the settings name does.
func (t TLS) fingerprint() string {
	var b strings.Builder
	for _, file := range []string{t.CACertFile, t.ClientCertFile, t.ClientKeyFile} {
		stamp(&b, file)
	}
	if t.CACertDir != "" && t.CACertFile == "" {
		files, err := listDir(t.CACertDir)
		fmt.Fprintf(&b, "%v;", err != nil)
		for _, file := range files {
			stamp(&b, file)
		}
	}
	return b.String()
}

func stamp(b *strings.Builder, file string) {
	if file == "" {
		return
	}
	info, err := os.Stat(file)
	if err != nil {
		fmt.Fprintf(b, "%s gone;", file)
		return
	}
	fmt.Fprintf(b, "%s %d %d;", file, info.ModTime().UnixNano(), info.Size())
}

func listDir(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, bare(err)
	}
	var files []string
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), ".") { // a mounted ConfigMap's own entries
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}
