package plugin

import (
	"context"

	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// Answers are taken in only a few at a time: readers of them from all providers
// together, lineReaders from one of them. The first of each provider never waits
// for those of another, so providers that stop in the middle of their answers do
// not keep the others from giving theirs. Each answer is in memory twice
// meanwhile, as bytes and as a message. So with MaxMessageBytes this bounds the
// memory, which a limit on calls could not without having providers wait for
// each other's stores.
const readers, lineReaders = 8, 4

// receive makes a Mount call. The call may wait long for the provider's store;
// only once the answer begins to come is a place taken for it, and until then
// no more than callWindow bytes of it are taken in. The answer is charged before
// it is decoded.
func (l *line) receive(ctx context.Context, m *v1alpha1.MountRequest, all *fair.Semaphore, charge *budget.Charge) (*v1alpha1.MountResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	decoder := &codec{charge: charge}
	stream, err := l.conn.NewStream(ctx, &grpc.StreamDesc{}, v1alpha1.CSIDriverProvider_Mount_FullMethodName, grpc.ForceCodecV2(decoder))
	if err != nil {
		return nil, err
	}
	// Errors of these two, and the provider's refusal, come out of RecvMsg.
	_ = stream.SendMsg(m)
	_, _ = stream.Header()
	if err := all.Acquire(ctx, l.socket.path); err != nil {
		return nil, err
	}
	defer all.Release(l.socket.path)
	answer := &v1alpha1.MountResponse{}
	if err := stream.RecvMsg(answer); err != nil {
		if decoder.refused != nil {
			return nil, decoder.refused
		}
		return nil, err
	}
	return answer, nil
}
