package endpoint

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// TLS says how to verify a server, and which client certificate to use. The files are read again
// when they change. It is comparable.
type TLS struct {
	CACertFile string `json:",omitempty"`
	CACertDir  string `json:",omitempty"`
	// CACert is the authorities as PEM. It overrides the file, and the file overrides the
	// directory.
	CACert         string `json:",omitempty"`
	ServerName     string `json:",omitempty"`
	ClientCertFile string `json:",omitempty"`
	ClientKeyFile  string `json:",omitempty"`
	SkipVerify     bool   `json:",omitempty"`
}

// WithoutClient returns the settings without the client certificate.
func (t TLS) WithoutClient() TLS {
	t.ClientCertFile, t.ClientKeyFile = "", ""
	return t
}

// Files lists the files and directories that the settings name.
func (t TLS) Files() []string {
	var files []string
	for _, f := range []string{t.CACertFile, t.CACertDir, t.ClientCertFile, t.ClientKeyFile} {
		if f != "" {
			files = append(files, f)
		}
	}
	return files
}

// Names are the settings' names where people write them, for errors.
type Names struct {
	// Place is the prefix of the field in an error, such as "spec.parameters."; hints do not have
	// it.
	Place string

	CACertFile, CACertDir, CACert, ServerName, ClientCertFile, ClientKeyFile string
	// OperatorCA is the setting by which the operator gives the authority; empty if there is none.
	OperatorCA string
	// Program is the name of this process for people; empty means driver.
	Program string
}

// material is the content of the files of TLS settings.
type material struct {
	authorities [][]byte
	cert, key   []byte
}

// sum changes when a file changes.
func (m material) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, data := range append([][]byte{m.cert, m.key}, m.authorities...) {
		_ = binary.Write(h, binary.BigEndian, int64(len(data)))
		_, _ = h.Write(data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// read reads the files.
//
// The files of the operator's own settings may be anywhere, all others must be beneath the listed
// directories. The operator's client certificate is a credential, so it counts as the operator's
// own only for the operator's server.
func (p *Pool) read(ctx context.Context, t Target) (m material, err error) {
	n, own := p.Names, p.Operator.TLS
	switch s := t.TLS; {
	case s.CACert != "":
	case s.CACertFile != "":
		m.authorities, err = p.open(ctx, n.CACertFile, s.CACertFile, s.CACertFile == own.CACertFile, false)
	case s.CACertDir != "":
		m.authorities, err = p.open(ctx, n.CACertDir, s.CACertDir, s.CACertDir == own.CACertDir, true)
	}
	if err != nil || t.TLS.ClientCertFile == "" {
		return m, err
	}
	operators := t.TLS.ClientCertFile == own.ClientCertFile && t.TLS.ClientKeyFile == own.ClientKeyFile && p.Operator.Owns(t.Address)
	cert, err := p.open(ctx, n.ClientCertFile, t.TLS.ClientCertFile, operators, false)
	if err != nil {
		return m, err
	}
	key, err := p.open(ctx, n.ClientKeyFile, t.TLS.ClientKeyFile, operators, false)
	if err != nil {
		return m, err
	}
	m.cert, m.key = cert[0], key[0]
	return m, nil
}

func (p *Pool) open(ctx context.Context, name, path string, operators, list bool) ([][]byte, error) {
	d, field := p.Files.own, p.Names.Place+name
	if !operators {
		if d = p.Files.dirOf(path); d == nil {
			return nil, p.Files.outside(field, path)
		}
	}
	data, err := d.read(ctx, path, list)
	switch {
	case errors.Is(err, errOutside):
		return nil, p.Files.outside(field, path)
	case errors.Is(err, errHangs):
		return nil, fault.New(fault.Of(ctx.Err()), "reading %q for %s: %w", path, field, err)
	case err != nil:
		return nil, p.Names.unusable(name, path, err)
	}
	return data, nil
}

// config makes a tls.Config from the content of the files.
func (t TLS) config(m material, n Names) (*tls.Config, error) {
	roots, err := t.roots(m, n)
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
	pair, err := tls.X509KeyPair(m.cert, m.key)
	if err != nil {
		return nil, n.unusable(n.ClientCertFile, t.ClientCertFile, fmt.Errorf("with the key in %q: %w", t.ClientKeyFile, err))
	}
	// The certificate is offered whichever authorities the server lists: an auth method may accept
	// others than the listener asks for.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return c, nil
}

// roots returns the authorities; nil means the system's.
func (t TLS) roots(m material, n Names) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	found := pool.AppendCertsFromPEM([]byte(t.CACert))
	for _, data := range m.authorities {
		found = pool.AppendCertsFromPEM(data) || found
	}
	switch {
	case found:
		return pool, nil
	case t.CACert != "":
		return nil, fault.New(fault.InvalidClass, "%s%s holds no PEM certificate", n.Place, n.CACert)
	case t.CACertFile != "":
		return nil, n.unusable(n.CACertFile, t.CACertFile, errors.New("it holds no PEM certificate"))
	case t.CACertDir != "":
		return nil, n.unusable(n.CACertDir, t.CACertDir, errors.New("no file in it holds a PEM certificate"))
	}
	return nil, nil
}

func (n Names) unusable(name, file string, err error) error {
	return fault.New(fault.InvalidClass, "reading %q for %s%s: %w", file, n.Place, name, err).
		WithHint("the path is one in the %s's container on the node", n.program())
}

func (n Names) program() string {
	if n.Program == "" {
		return "driver"
	}
	return n.Program
}
