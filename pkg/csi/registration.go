package csi

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Registration registers the driver with kubelet, over a socket of its own in kubelet's
// plugins_registry directory. It replaces the node-driver-registrar sidecar.
type Registration struct {
	registerapi.UnimplementedRegistrationServer
	driver   string
	endpoint string

	mu  sync.Mutex
	err error
}

// errUnregistered is the state until kubelet first calls.
var errUnregistered = errors.New("kubelet has not registered the driver yet: does it watch this plugins_registry directory?")

// NewRegistration makes the service and its server. endpoint is the path of the CSI socket as
// kubelet sees it, outside of the driver's container.
func NewRegistration(registryDir, driver, endpoint string, o Options) (*Registration, *Server, error) {
	s, err := newServer(filepath.Join(registryDir, driver+"-reg.sock"), o)
	if err != nil {
		return nil, nil, err
	}
	r := &Registration{driver: driver, endpoint: endpoint, err: errUnregistered}
	registerapi.RegisterRegistrationServer(s.grpc, r)
	return r, s, nil
}

// GetInfo implements pluginregistration.RegistrationServer.
func (r *Registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type:              registerapi.CSIPlugin,
		Name:              r.driver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus implements pluginregistration.RegistrationServer.
func (r *Registration) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = nil
	if !s.GetPluginRegistered() {
		r.err = errors.New("kubelet refused the driver: " + s.GetError())
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// Ready is nil once kubelet has registered the driver.
func (r *Registration) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
