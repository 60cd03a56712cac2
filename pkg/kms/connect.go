// Package kms is mayfly-kms: a KMS v2 plugin of kube-apiserver on Vault's or
// OpenBao's Transit engine.
package kms

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/login"
	"github.com/mayfly-csi/mayfly/pkg/kms/store"
	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// Connection is a login at Vault, and the key that it uses.
type Connection struct {
	// Session makes requests to Vault, logged in.
	Session *login.Session
	Transit *transit.Client
}

// Meter counts what a connection does. It must not block.
type Meter interface {
	store.Meter
	login.Meter
}

// Connect makes a connection. It makes no request yet: the first request logs in.
func Connect(c config.Config, meter Meter, log *slog.Logger) (*Connection, error) {
	if meter == nil {
		meter = unmetered{}
	}
	client, err := store.New(c.Vault, c.Timing.CallTimeout, meter, log)
	if err != nil {
		return nil, fmt.Errorf("making the client of Vault: %w", err)
	}
	session := login.New(c.Login, client, meter, log)
	return &Connection{Session: session, Transit: transit.New(c.Transit, session)}, nil
}

// Close revokes the login.
func (c *Connection) Close(ctx context.Context) error { return c.Session.Close(ctx) }

// unmetered counts nothing.
type unmetered struct{}

func (unmetered) VaultRequest(string, error, time.Duration) {}
func (unmetered) Login(error)                               {}
func (unmetered) TokenEnds(time.Time)                       {}
