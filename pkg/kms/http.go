package kms

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// A probe or a scrape has to be sent and taken in this time.
const (
	readTimeout  = 3 * time.Second
	writeTimeout = 10 * time.Second
	headerLimit  = 8 << 10
)

func serveHTTP(ctx context.Context, addr string, h http.Handler) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("--health-addr, --metrics-addr: listening on %s: %w", addr, err)
	}
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: readTimeout, MaxHeaderBytes: headerLimit,
	}
	s.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health and metrics on %s: %w", addr, err)
	}
	return nil
}
