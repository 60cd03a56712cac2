package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"path/filepath"
)

// config is the values of the flags.
type config struct {
	listen            string
	tlsDir            string
	requireClientCert bool
	auditFile         string
	rootToken         string
	exitWithStdin     bool
}

func parseConfig(args []string, usage io.Writer) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("vaultd", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.StringVar(&cfg.listen, "listen", "127.0.0.1:0", "`address` to listen on; a loopback address only")
	fs.StringVar(&cfg.tlsDir, "tls-dir", "", "serve TLS with fresh certificates, written to this `directory`: ca.pem, client.pem, client-key.pem")
	fs.BoolVar(&cfg.requireClientCert, "tls-require-client-cert", false, "refuse clients without a certificate from the CA; needs --tls-dir")
	fs.StringVar(&cfg.auditFile, "audit-file", "", "enable the file audit device at this `path`")
	fs.StringVar(&cfg.rootToken, "root-token", "", "the root `token`; random where empty")
	fs.BoolVar(&cfg.exitWithStdin, "exit-with-stdin", false, "end when standard input is closed, so with the parent process")
	if err := fs.Parse(args); err != nil {
		return config{}, err
	}
	if fs.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return cfg.complete()
}

// complete checks the configuration and makes its paths absolute.
func (c config) complete() (config, error) {
	if err := checkLoopback(c.listen); err != nil {
		return config{}, err
	}
	if c.requireClientCert && c.tlsDir == "" {
		return config{}, errors.New("--tls-require-client-cert needs --tls-dir")
	}
	for _, path := range []*string{&c.tlsDir, &c.auditFile} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return config{}, fmt.Errorf("resolving %q: %w", *path, err)
		}
		*path = abs
	}
	return c, nil
}

// checkLoopback refuses an address that other machines could reach: the root token goes to standard
// output and may be a fixed one.
func checkLoopback(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--listen: %q is not a loopback address", host)
	}
	return nil
}
