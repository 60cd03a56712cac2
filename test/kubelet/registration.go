package kubelet

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Register does what kubelet does with a socket that appears in its plugins_registry: it calls
// GetInfo, and reports whether it registered the plugin. It returns the plugin's info.
func Register(ctx context.Context, socket string, refuse error) (*registerapi.PluginInfo, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dialling the registration socket %q: %w", socket, err)
	}
	defer func() { _ = conn.Close() }()
	client := registerapi.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registerapi.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the plugin: %w", err)
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: refuse == nil}
	if refuse != nil {
		status.Error = refuse.Error()
	}
	if _, err := client.NotifyRegistrationStatus(ctx, status); err != nil {
		return nil, fmt.Errorf("telling the plugin: %w", err)
	}
	return info, nil
}
