package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
)

const (
	// shutdownGrace is how long running requests may take after a signal.
	shutdownGrace = 5 * time.Second

	// Large enough for tests of oversized secrets; Vault's own limits are 32 MiB for a request and
	// 1 MiB for a string.
	maxRequestBytes = 96 << 20
	maxStringBytes  = 64 << 20
)

// greeting is the line that tells the parent how to reach this server.
type greeting struct {
	Address        string `json:"address"`
	RootToken      string `json:"rootToken"`
	UnsealKey      string `json:"unsealKey"`
	CAFile         string `json:"caFile"`
	ClientCertFile string `json:"clientCertFile"`
	ClientKeyFile  string `json:"clientKeyFile"`
}

// run serves until ctx ends.
func run(ctx context.Context, cfg config, stdout, logs io.Writer) error {
	listener, files, err := listen(ctx, cfg)
	if err != nil {
		return err
	}
	defer listener.Close()

	core, err := newCore(logs)
	if err != nil {
		return err
	}
	creds, err := initialise(ctx, core, cfg)
	if err != nil {
		return err
	}
	hello := greeting{
		Address:        scheme(cfg) + "://" + listener.Addr().String(),
		RootToken:      creds.rootToken,
		UnsealKey:      creds.unsealKey,
		CAFile:         files.ca,
		ClientCertFile: files.clientCert,
		ClientKeyFile:  files.clientKey,
	}
	if err := json.NewEncoder(stdout).Encode(hello); err != nil {
		return fmt.Errorf("printing the address: %w", err)
	}
	return errors.Join(serve(ctx, listener, core, logs), core.Shutdown())
}

func scheme(cfg config) string {
	if cfg.tlsDir != "" {
		return "https"
	}
	return "http"
}

func listen(ctx context.Context, cfg config) (net.Listener, tlsFiles, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.listen)
	if err != nil {
		return nil, tlsFiles{}, fmt.Errorf("listening: %w", err)
	}
	if cfg.tlsDir == "" {
		return listener, tlsFiles{}, nil
	}
	conf, files, err := newTLS(cfg.tlsDir, time.Now())
	if err != nil {
		listener.Close()
		return nil, tlsFiles{}, err
	}
	if cfg.requireClientCert {
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return tls.NewListener(listener, conf), files, nil
}

func serve(ctx context.Context, listener net.Listener, core *vault.Core, logs io.Writer) error {
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core: core,
			ListenerConfig: &configutil.Listener{
				MaxRequestSize:                 maxRequestBytes,
				CustomMaxJSONStringValueLength: maxStringBytes,
			},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		ErrorLog:          log.New(logs, "vaultd: http: ", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("stopping: %w", err), server.Close())
	}
	return nil
}
