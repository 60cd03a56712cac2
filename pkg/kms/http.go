package kms

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// The times for a probe or a scrape.
const (
	readTimeout  = 3 * time.Second
	writeTimeout = 10 * time.Second
	headerLimit  = 8 << 10
)

// listenAgain is the pause before another attempt to listen.
const listenAgain = 10 * time.Second

// serveHTTP serves until ctx ends. An address in use does not stop the plugin, without which the
// API server could read no Secret.
func serveHTTP(ctx context.Context, addr string, h http.Handler, log *slog.Logger) {
	for {
		err := serveOnce(ctx, addr, h)
		if ctx.Err() != nil {
			return
		}
		log.Error("health and metrics cannot be served (--health-addr, --metrics-addr); trying again", logkey.Address, addr, logkey.Error, err)
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
}

func serveOnce(ctx context.Context, addr string, h http.Handler) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: readTimeout, MaxHeaderBytes: headerLimit,
	}
	s.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	return s.Serve(l)
}
