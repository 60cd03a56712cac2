package endpoint

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

// maxFile bounds one file of TLS settings.
const maxFile = 1 << 20

// TLS says how a server is verified, and who to be to it. The files are read
// again when they change. It is comparable.
type TLS struct {
	CACertFile string `json:",omitempty"`
	CACertDir  string `json:",omitempty"`
	// CACert holds the authorities themselves, as PEM. It comes before the
	// file, and the file before the directory.
	CACert         string `json:",omitempty"`
	ServerName     string `json:",omitempty"`
	ClientCertFile string `json:",omitempty"`
	ClientKeyFile  string `json:",omitempty"`
	SkipVerify     bool   `json:",omitempty"`
}

// Names are what the settings are called where people write them, for errors.
type Names struct {
	// Place comes before a name that says where a mistake is, as in
	// "spec.parameters."; hints do without.
	Place string

	CACertFile, CACertDir, CACert, ServerName, ClientCertFile, ClientKeyFile string
}

// config reads the files.
func (t TLS) config(n Names) (*tls.Config, error) {
	roots, err := t.roots(n)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: t.ServerName,
		InsecureSkipVerify: t.SkipVerify, //nolint:gosec // the operator can forbid it
	}
	if t.ClientCertFile == "" {
		return c, nil
	}
	pair, err := t.clientPair(n)
	if err != nil {
		return nil, err
	}
	// Offered whatever authorities the server lists: an auth method may accept
	// others than the listener asks for.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	return c, nil
}

// roots are the authorities; nil stands for the system's.
func (t TLS) roots(n Names) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	switch {
	case t.CACert != "":
		if !pool.AppendCertsFromPEM([]byte(t.CACert)) {
			return nil, fault.New(fault.InvalidClass, "%s%s holds no PEM certificate", n.Place, n.CACert)
		}
	case t.CACertFile != "":
		if err := addFile(pool, t.CACertFile); err != nil {
			return nil, n.unusable(n.CACertFile, t.CACertFile, err)
		}
	case t.CACertDir != "":
		if err := addDir(pool, t.CACertDir); err != nil {
			return nil, n.unusable(n.CACertDir, t.CACertDir, err)
		}
	default:
		return nil, nil
	}
	return pool, nil
}

func (t TLS) clientPair(n Names) (*tls.Certificate, error) {
	cert, err := readFile(t.ClientCertFile)
	if err != nil {
		return nil, n.unusable(n.ClientCertFile, t.ClientCertFile, err)
	}
	key, err := readFile(t.ClientKeyFile)
	if err != nil {
		return nil, n.unusable(n.ClientKeyFile, t.ClientKeyFile, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, n.unusable(n.ClientCertFile, t.ClientCertFile, fmt.Errorf("with the key in %q: %w", t.ClientKeyFile, err))
	}
	return &pair, nil
}

func addFile(pool *x509.CertPool, file string) error {
	data, err := readFile(file)
	if err == nil && !pool.AppendCertsFromPEM(data) {
		return errors.New("it holds no PEM certificate")
	}
	return err
}

func addDir(pool *x509.CertPool, dir string) error {
	files, err := visible(dir)
	if err != nil {
		return err
	}
	found := false
	for _, file := range files {
		found = addFile(pool, file) == nil || found
	}
	if !found {
		return errors.New("no file in it holds a PEM certificate")
	}
	return nil
}

// readFile refuses devices and pipes, which could go on for ever.
func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	data, err := os.ReadFile(file) //nolint:gosec // the path is the operator's or the class's
	return data, withoutPath(err)
}

// visible lists a directory without what a mounted ConfigMap keeps for itself.
func visible(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, withoutPath(err)
	}
	var files []string
	for _, e := range entries {
		if e.Name()[0] != '.' {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

func withoutPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func (n Names) unusable(name, file string, err error) error {
	return fault.New(fault.InvalidClass, "reading %q for %s%s: %w", file, n.Place, name, err).
		WithHint("the path is one in the driver's container on the node")
}

// fingerprint changes when a file that the settings name does.
func (t TLS) fingerprint() string {
	files := []string{t.CACertFile, t.ClientCertFile, t.ClientKeyFile}
	if t.CACertDir != "" && t.CACertFile == "" && t.CACert == "" {
		listed, _ := visible(t.CACertDir) // reading it again tells what is wrong
		files = append(files, listed...)
	}
	var b strings.Builder
	for _, file := range files {
		if file == "" {
			continue
		}
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintf(&b, "%q %d %d\n", file, info.ModTime().UnixNano(), info.Size())
		}
	}
	return b.String()
}
