// Package server serves KMS v2 on a unix socket.
package server

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/audit"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

const (
	// apiVersion is what Status must answer for KMS v2.
	apiVersion = "v2"
	// maxMessage is above the API server's own limits: 1 KiB for the ciphertext
	// and the key id, 32 KiB for the annotations.
	maxMessage = 64 << 10
	bufferSize = 4 << 10
	// grace is how long running calls may go on after the server is told to stop.
	grace = 3 * time.Second
	// maxStreams bounds the concurrent calls of one connection.
	maxStreams = 256
)

// Plugin decides the answers.
type Plugin interface {
	Status() (id, healthz string, err error)
	Encrypt(ctx context.Context, seed []byte, correlation string) (plugin.Sealed, plugin.Trace, error)
	Decrypt(ctx context.Context, s plugin.Sealed, correlation string) ([]byte, plugin.Trace, error)
}

// Meter counts calls. It must not block.
type Meter interface {
	Call(method string, code codes.Code, by plugin.By, took time.Duration)
}

// Options are the parameters of a server. All must be set.
type Options struct {
	Socket Socket
	// AllowedUIDs may call; empty for every user who can connect.
	AllowedUIDs []uint32
	// CallTimeout bounds a call.
	CallTimeout time.Duration
	Meter       Meter
	// Audit receives each Encrypt and Decrypt.
	Audit  func(audit.Event)
	Logger *slog.Logger
}

// Server serves one plugin.
type Server struct {
	kmsv2.UnimplementedKeyManagementServiceServer

	o      Options
	plugin Plugin
	grpc   *grpc.Server
	// failures bounds how often failed calls are logged; the audit trail has all.
	failures *rate.Limiter
}

// New makes a server. It starts nothing.
func New(p Plugin, o Options) *Server {
	s := &Server{o: o, plugin: p, failures: rate.NewLimiter(1, 10)}
	s.grpc = grpc.NewServer(
		grpc.Creds(peerCredentials{allowed: o.AllowedUIDs, log: o.Logger}),
		grpc.UnaryInterceptor(s.around),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(5*time.Second),
		grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize),
	)
	kmsv2.RegisterKeyManagementServiceServer(s.grpc, s)
	return s
}

// Run serves until ctx ends, then waits for running calls to finish. It calls ready once the socket
// accepts calls. If the socket file is removed, it creates it again.
func (s *Server) Run(ctx context.Context, ready func()) error {
	l, err := s.o.Socket.Listen()
	if err != nil {
		return err
	}
	ready()
	g, ctx := errgroup.WithContext(ctx)
	serve := func(l *Listener) {
		g.Go(func() error {
			if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil && l.There() {
				return err
			}
			return nil
		})
	}
	serve(l)
	g.Go(func() error {
		s.watch(ctx, l, serve)
		s.stop()
		return nil
	})
	return g.Wait()
}

// lookForSocket is how often the server checks whether its socket still exists.
const lookForSocket = 5 * time.Second

// watch creates the socket again after it was removed, for example by a clean-up of /run: a restart
// would lose what is in memory.
func (s *Server) watch(ctx context.Context, l *Listener, serve func(*Listener)) {
	tick := time.NewTicker(lookForSocket)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if l.There() {
			continue
		}
		next, err := s.o.Socket.Listen()
		if err != nil {
			s.o.Logger.Error("the socket was removed, and cannot be created again", logkey.Error, err)
			continue
		}
		s.o.Logger.Warn("the socket was removed, and was created again", logkey.Socket, s.o.Socket.Path)
		l = next
		serve(l)
	}
}

func (s *Server) stop() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-time.After(grace):
		s.grpc.Stop()
		<-done
	}
}

// Status implements the KMS v2 service.
func (s *Server) Status(context.Context, *kmsv2.StatusRequest) (*kmsv2.StatusResponse, error) {
	id, healthz, err := s.plugin.Status()
	if err != nil {
		return nil, err
	}
	return &kmsv2.StatusResponse{Version: apiVersion, Healthz: healthz, KeyId: id}, nil
}

// Encrypt implements the KMS v2 service.
func (s *Server) Encrypt(ctx context.Context, r *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
	defer clear(r.GetPlaintext())
	sealed, trace, err := s.plugin.Encrypt(ctx, r.GetPlaintext(), plugin.CorrelationFor(r.GetUid()))
	note(ctx, sealed.ID, trace)
	if err != nil {
		return nil, err
	}
	return &kmsv2.EncryptResponse{Ciphertext: sealed.Ciphertext, KeyId: sealed.ID, Annotations: sealed.Annotations}, nil
}

// Decrypt implements the KMS v2 service.
func (s *Server) Decrypt(ctx context.Context, r *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error) {
	seed, trace, err := s.plugin.Decrypt(ctx, plugin.Sealed{ID: r.GetKeyId(), Ciphertext: r.GetCiphertext(), Annotations: r.GetAnnotations()}, plugin.CorrelationFor(r.GetUid()))
	note(ctx, r.GetKeyId(), trace)
	if err != nil {
		return nil, err
	}
	return &kmsv2.DecryptResponse{Plaintext: seed}, nil
}

// call is the handler's data for around.
type call struct {
	keyID string
	trace plugin.Trace
}

type callKey struct{}

func note(ctx context.Context, keyID string, t plugin.Trace) {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		c.keyID, c.trace = keyID, t
	}
}

// around wraps every call: it bounds the time, turns a panic into an error, chooses an error's
// code, and updates the metrics and the audit trail. It never logs requests and answers.
func (s *Server) around(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.o.CallTimeout)
	defer cancel()
	c := &call{}
	answer, err := s.recovered(context.WithValue(ctx, callKey{}, c), req, info, handler)
	took, method := time.Since(began), path.Base(info.FullMethod)
	code := codeOf(err)
	s.o.Meter.Call(method, code, c.trace.By, took)
	kind, uid := subject(req)
	if kind != "" {
		s.o.Audit(audit.Event{
			Kind: kind, UID: uid, KeyID: c.keyID, Peer: peerOf(ctx), By: string(c.trace.By), Correlation: c.trace.Correlation, Code: code, Err: err, Took: took,
		})
	}
	if err == nil {
		return answer, nil
	}
	if kind != "" && s.failures.Allow() {
		s.o.Logger.Warn("a call failed", logkey.Method, method, logkey.Code, code.String(), logkey.Reason, fault.Of(err), logkey.UID, plugin.CorrelationFor(uid), logkey.Error, err)
	}
	return nil, status.Error(code, public(err))
}

// subject is a request's data for the audit trail; empty for a Status.
func subject(req any) (kind audit.Kind, uid string) {
	switch r := req.(type) {
	case *kmsv2.EncryptRequest:
		return audit.Encrypt, r.GetUid()
	case *kmsv2.DecryptRequest:
		return audit.Decrypt, r.GetUid()
	}
	return "", ""
}

func (s *Server) recovered(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	defer fault.Recover(&err, s.o.Logger, path.Base(info.FullMethod))
	return handler(ctx, req)
}

func peerOf(ctx context.Context) audit.Peer {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return audit.Peer{}
	}
	if process, ok := p.AuthInfo.(process); ok {
		return process.Peer
	}
	return audit.Peer{}
}

// codesByReason maps each reason to its gRPC code.
func codesByReason() map[fault.Reason]codes.Code {
	return map[fault.Reason]codes.Code{
		fault.InvalidArgument: codes.InvalidArgument,
		fault.Denied:          codes.PermissionDenied,
		fault.NotAllowed:      codes.PermissionDenied,
		fault.NotFound:        codes.NotFound,
		fault.Rejected:        codes.InvalidArgument,
		fault.Conflict:        codes.FailedPrecondition,
		fault.RateLimited:     codes.Unavailable,
		fault.Unavailable:     codes.Unavailable,
		fault.BadAnswer:       codes.Unavailable,
		fault.Timeout:         codes.DeadlineExceeded,
		fault.Canceled:        codes.Canceled,
	}
}

func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if code, ok := codesByReason()[fault.Of(err)]; ok {
		return code
	}
	if code := status.Code(err); code != codes.Unknown { // gRPC's own error
		return code
	}
	return codes.Internal
}
