package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/mayfly-csi/mayfly/pkg/kms/audit"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// peerCredentials asks the kernel which process has connected, and refuses users who are not
// allowed.
type peerCredentials struct {
	allowed []uint32
	log     *slog.Logger
}

// process is the peer of a connection.
type process struct {
	credentials.CommonAuthInfo
	audit.Peer
}

// AuthType implements credentials.AuthInfo.
func (process) AuthType() string { return "unix" }

// ServerHandshake implements credentials.TransportCredentials.
func (c peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	who, err := peerOfSocket(conn)
	if err != nil {
		return nil, nil, err
	}
	if len(c.allowed) > 0 && !slices.Contains(c.allowed, who.UID) {
		c.log.Warn("refused a connection of a user that --allowed-uids does not name", logkey.PID, who.PID, logkey.UID, who.UID, logkey.GID, who.GID)
		return nil, nil, fmt.Errorf("user %d may not call", who.UID)
	}
	c.log.Info("a process has connected", logkey.PID, who.PID, logkey.UID, who.UID, logkey.GID, who.GID)
	return conn, process{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, who}, nil
}

func peerOfSocket(conn net.Conn) (audit.Peer, error) {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return audit.Peer{}, errors.New("the connection is none of a unix socket")
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return audit.Peer{}, err
	}
	var who *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		who, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) //nolint:gosec // a file descriptor
	})
	if err = errors.Join(err, failure); err != nil {
		return audit.Peer{}, fmt.Errorf("asking the kernel who has connected: %w", err)
	}
	return audit.Peer{PID: who.Pid, UID: who.Uid, GID: who.Gid}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone implements credentials.TransportCredentials.
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }
