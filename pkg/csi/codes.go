package csi

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// reasonCodes maps each reason to its gRPC code; no other code chooses one.
//
// Kubelet reads Canceled, DeadlineExceeded, Unavailable, ResourceExhausted and Aborted as "may
// still be in progress", keeps its state and retries. Every other code is final: kubelet cleans up
// and, for a new pod, retries after a longer pause. Reasons that may go away without a change get a
// code of the first kind.
var reasonCodes = map[fault.Reason]codes.Code{
	fault.InvalidArgument: codes.InvalidArgument,
	fault.InvalidClass:    codes.InvalidArgument,
	fault.ClassNotFound:   codes.NotFound,
	fault.UnknownProvider: codes.FailedPrecondition,
	fault.NotAllowed:      codes.PermissionDenied,
	fault.NoToken:         codes.Unauthenticated,
	fault.Denied:          codes.PermissionDenied,
	fault.Unverified:      codes.PermissionDenied,
	fault.NotFound:        codes.NotFound,
	fault.Rejected:        codes.InvalidArgument,
	fault.Unavailable:     codes.Unavailable,
	fault.RateLimited:     codes.ResourceExhausted,
	fault.Timeout:         codes.DeadlineExceeded,
	fault.BadAnswer:       codes.Unavailable,
	fault.TooLarge:        codes.OutOfRange,
	fault.Exhausted:       codes.ResourceExhausted,
	fault.Conflict:        codes.FailedPrecondition,
	fault.Mount:           codes.Internal,
	fault.State:           codes.Unavailable,
	fault.Canceled:        codes.Aborted,
	fault.Internal:        codes.Internal,
}

// final reports whether kubelet gives up the mount at this code.
func final(c codes.Code) bool {
	switch c {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	}
	return true
}

// codeOf chooses the code of a failure. A failure that left a live volume as it was never gets a
// final code: kubelet would unmount the volume under the pod (kubernetes/kubernetes issue 121271).
func codeOf(err error) codes.Code {
	c, ok := reasonCodes[fault.Of(err)]
	if !ok {
		c = codes.Internal
	}
	if _, kept := errors.AsType[*volume.KeptError](err); kept && final(c) {
		c = codes.Unavailable
	}
	return c
}

// toStatus makes the status that kubelet receives for a failure.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codeOf(err), err.Error())
}
