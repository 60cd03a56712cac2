package csi

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// Observe receives every answered call, for the metrics.
type Observe func(method string, code codes.Code, took time.Duration)

// around wraps every call: it turns a panic into an error, chooses the code of a failure and logs
// it once. It never logs the request, which holds tokens.
func around(o Options) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		began := time.Now()
		resp, err := recovered(ctx, req, o.Logger, info, handler)
		answer := toStatus(err)
		code, took := status.Code(answer), time.Since(began)
		logCall(ctx, o.Logger, call{path.Base(info.FullMethod), req, code, took, err})
		if o.Observe != nil {
			o.Observe(info.FullMethod, code, took)
		}
		if answer != nil {
			return nil, answer
		}
		return resp, nil
	}
}

func recovered(ctx context.Context, req any, log *slog.Logger, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value of the panic may quote the request.
			log.Error("panic in a call", logkey.Method, info.FullMethod, logkey.Type, fmt.Sprintf("%T", r), logkey.Stack, string(debug.Stack()))
			err = fault.New(fault.Internal, "%s: the driver has a defect and recovered from it", path.Base(info.FullMethod)).
				WithHint("the stack is in the driver's log on this node; please report it")
		}
	}()
	return handler(ctx, req)
}

type call struct {
	method string
	req    any
	code   codes.Code
	took   time.Duration
	err    error
}

// quiet calls are the ones that kubelet repeats at an interval.
var quiet = map[string]bool{"Probe": true, "GetPluginInfo": true, "NodeGetCapabilities": true, "NodeGetVolumeStats": true}

// failures are the log messages that people search for.
var failures = map[string]string{"NodePublishVolume": "mount failed, kubelet tries again", "NodeUnpublishVolume": "unmount failed, kubelet tries again"}

func logCall(ctx context.Context, log *slog.Logger, c call) {
	attrs := []slog.Attr{slog.String(logkey.Method, c.method), slog.String(logkey.Code, c.code.String()), slog.Duration(logkey.Took, c.took)}
	attrs = append(attrs, subject(c.req)...)
	level, what := slog.LevelDebug, "call"
	switch {
	case c.code == codes.Unimplemented:
	case c.err != nil:
		level, what = slog.LevelError, failures[c.method]
		if what == "" {
			what = "call failed"
		}
		attrs = append(attrs, slog.String(logkey.Reason, string(fault.Of(c.err))), slog.Any(logkey.Error, c.err))
	case !quiet[c.method] && c.took > slowCall:
		level = slog.LevelInfo
	}
	log.LogAttrs(ctx, level, what, attrs...)
}

// slowCall is how long a call may take before it gets a log line: a first publish is slower, a
// republish with nothing due is faster.
const slowCall = 2 * time.Millisecond

// subject names the volume and pod of the call, from fields that are not secret.
func subject(req any) []slog.Attr {
	var attrs []slog.Attr
	if v, ok := req.(interface{ GetVolumeId() string }); ok {
		attrs = append(attrs, slog.String(logkey.Volume, v.GetVolumeId()))
	}
	if v, ok := req.(interface{ GetVolumeContext() map[string]string }); ok {
		a := v.GetVolumeContext()
		attrs = append(attrs, slog.String(logkey.Pod, a[identity.PodNamespaceKey]+"/"+a[identity.PodNameKey]), slog.String(logkey.Class, a[identity.ClassKey]))
	}
	return attrs
}
