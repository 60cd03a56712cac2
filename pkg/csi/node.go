package csi

import (
	"context"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Volumes publishes and unpublishes volumes for the Node service.
type Volumes interface {
	Publish(ctx context.Context, r volume.Request) error
	Unpublish(ctx context.Context, id, target string) error
	Stats(id, path string) (tmpfs.Stats, error)
}

// Node is the CSI Node service.
type Node struct {
	csipb.UnimplementedNodeServer
	NodeID  string
	Volumes Volumes
}

// NodeGetInfo implements csi.NodeServer.
func (n *Node) NodeGetInfo(context.Context, *csipb.NodeGetInfoRequest) (*csipb.NodeGetInfoResponse, error) {
	return &csipb.NodeGetInfoResponse{NodeId: n.NodeID}, nil
}

// NodeGetCapabilities implements csi.NodeServer. With VOLUME_MOUNT_GROUP kubelet passes the pod's
// fsGroup, which it does not apply itself to read-only volumes.
func (n *Node) NodeGetCapabilities(context.Context, *csipb.NodeGetCapabilitiesRequest) (*csipb.NodeGetCapabilitiesResponse, error) {
	resp := &csipb.NodeGetCapabilitiesResponse{}
	for _, c := range []csipb.NodeServiceCapability_RPC_Type{
		csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csipb.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
	} {
		resp.Capabilities = append(resp.Capabilities, &csipb.NodeServiceCapability{
			Type: &csipb.NodeServiceCapability_Rpc{Rpc: &csipb.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// NodePublishVolume implements csi.NodeServer.
func (n *Node) NodePublishVolume(ctx context.Context, r *csipb.NodePublishVolumeRequest) (*csipb.NodePublishVolumeResponse, error) {
	req, err := publishRequest(r)
	if err != nil {
		return nil, err
	}
	if err := n.Volumes.Publish(ctx, req); err != nil {
		return nil, err
	}
	return &csipb.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements csi.NodeServer.
func (n *Node) NodeUnpublishVolume(ctx context.Context, r *csipb.NodeUnpublishVolumeRequest) (*csipb.NodeUnpublishVolumeResponse, error) {
	if err := checkUnpublish(r); err != nil {
		return nil, err
	}
	if err := n.Volumes.Unpublish(ctx, r.GetVolumeId(), r.GetTargetPath()); err != nil {
		return nil, err
	}
	return &csipb.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats implements csi.NodeServer.
func (n *Node) NodeGetVolumeStats(_ context.Context, r *csipb.NodeGetVolumeStatsRequest) (*csipb.NodeGetVolumeStatsResponse, error) {
	if err := checkVolume(r.GetVolumeId(), "volume_path", r.GetVolumePath()); err != nil {
		return nil, err
	}
	s, err := n.Volumes.Stats(r.GetVolumeId(), r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	return &csipb.NodeGetVolumeStatsResponse{Usage: []*csipb.VolumeUsage{
		usage(csipb.VolumeUsage_BYTES, s.Bytes),
		usage(csipb.VolumeUsage_INODES, s.Inodes),
	}}, nil
}

func usage(unit csipb.VolumeUsage_Unit, u tmpfs.Usage) *csipb.VolumeUsage {
	return &csipb.VolumeUsage{Unit: unit, Total: u.Total, Used: u.Used, Available: u.Available}
}
