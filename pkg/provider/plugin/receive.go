package plugin

import (
	"context"

	"google.golang.org/grpc"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// Only a few answers are read at once: readers of them from all providers together, providerReaders
// from one provider. The first of each provider never waits for those of another, so a provider
// that stops in the middle of its answers does not block the others. While it is read, each answer
// is in memory twice, as bytes and as a message. Together with MaxMessageBytes these limits bound
// the memory. A limit on calls could not do that without making providers wait for each other's
// stores.
const readers, providerReaders = 8, 4

// receive makes a Mount call. The call may wait long for the provider's store, so receive acquires
// a slot only when the answer begins to arrive. Until then the connection accepts no more than
// callWindow bytes. receive charges the answer before it is decoded.
func (l *connection) receive(ctx context.Context, m *v1alpha1.MountRequest, all *fair.Semaphore, charge *budget.Charge) (*v1alpha1.MountResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	decoder := &codec{charge: charge}
	stream, err := l.conn.NewStream(ctx, &grpc.StreamDesc{}, v1alpha1.CSIDriverProvider_Mount_FullMethodName, grpc.ForceCodecV2(decoder))
	if err != nil {
		return nil, err
	}
	// RecvMsg returns the errors of these two, and the provider's refusal.
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
