package csi_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/csi"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/pkg/volume/statedir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestSanity runs the CSI project's own suite over the driver with real tmpfs volumes. The driver
// has no controller, which the suite needs to get volumes, so inlineVolumes makes them, as
// Kubernetes does from a pod's manifest.
func TestSanity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts tmpfs")
	}
	dir := testkit.Value(os.MkdirTemp("", "sanity"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := sanity.NewTestConfig()
	config.Address = "unix:" + serveSanity(t, dir)
	config.ControllerAddress = "unix:" + serveInlineVolumes(t, dir)
	config.DialOptions = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(readOnly)}
	config.ControllerDialOptions = config.DialOptions[:1]
	config.TargetPath, config.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
	sc := sanity.GinkgoTest(&config)
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, report := ginkgo.GinkgoConfiguration()
	suite.SkipStrings = append(suite.SkipStrings, "Controller Server")
	report.Succinct, report.NoColor = true, true
	ginkgo.RunSpecs(t, "CSI sanity", suite, report)
	sc.Finalize()
	testkit.Empty(t, "left behind", testkit.Value(filepath.Glob(filepath.Join(dir, "target*", "*")))(t))
}

func serveSanity(t *testing.T, dir string) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	mounts := testkit.Value(tmpfs.New())(t)
	store := testkit.Value(statedir.New(filepath.Join(dir, "state"), log))(t)
	volumes, err := volume.New(volume.Config{
		Classes: oneClass{}, Providers: provider.Registry{"fixed": fixed{}}, Renderer: rendered.New(nil), Mounts: mounts, Store: store,
		Observer: volume.Observers{}, Logger: log, Limits: limits.Limits{Interval: time.Minute, SizeLimit: 1 << 20, InodeLimit: 16}, Workers: 1,
		RefreshTimeout: time.Minute, ReleaseTimeout: time.Second,
	})
	testkit.Must(t, err)
	socket := filepath.Join(dir, "csi.sock")
	server, err := csi.NewServer(socket, &csi.Identity{Driver: "secrets-store.csi.k8s.io", Version: "1", Ready: healthy},
		&csi.Node{NodeID: "n", Volumes: volumes}, csi.Options{Logger: log, Grace: time.Second})
	testkit.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, func() { close(up) }) }()
	<-up
	t.Cleanup(func() {
		cancel()
		testkit.Check(t, <-done)
		targets, _ := filepath.Glob(filepath.Join(dir, "target*", "*"))
		for _, target := range targets {
			_ = unix.Unmount(target, unix.MNT_DETACH)
		}
	})
	return socket
}

// readOnly sets what a pod's manifest must have, because the suite does not know pods.
func readOnly(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if q, ok := req.(*csipb.NodePublishVolumeRequest); ok {
		q.Readonly = true
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

func serveInlineVolumes(t *testing.T, dir string) string {
	t.Helper()
	socket := filepath.Join(dir, "inline.sock")
	listener := testkit.Value(net.Listen("unix", socket))(t)
	server := grpc.NewServer()
	csipb.RegisterControllerServer(server, inlineVolumes{})
	csipb.RegisterIdentityServer(server, &csi.Identity{Driver: "secrets-store.csi.k8s.io", Version: "1", Ready: healthy})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return socket
}

type inlineVolumes struct {
	csipb.UnimplementedControllerServer
}

func (inlineVolumes) ControllerGetCapabilities(context.Context, *csipb.ControllerGetCapabilitiesRequest) (*csipb.ControllerGetCapabilitiesResponse, error) {
	return &csipb.ControllerGetCapabilitiesResponse{}, nil
}

func (inlineVolumes) CreateVolume(_ context.Context, r *csipb.CreateVolumeRequest) (*csipb.CreateVolumeResponse, error) {
	return &csipb.CreateVolumeResponse{Volume: &csipb.Volume{VolumeId: "csi-" + r.GetName(), VolumeContext: map[string]string{
		"secretProviderClass": "secrets", "csi.storage.k8s.io/ephemeral": "true",
		"csi.storage.k8s.io/pod.name": "p", "csi.storage.k8s.io/pod.namespace": "ns", "csi.storage.k8s.io/pod.uid": "u",
		"csi.storage.k8s.io/serviceAccount.name": "sa",
	}}}, nil
}

func (inlineVolumes) DeleteVolume(context.Context, *csipb.DeleteVolumeRequest) (*csipb.DeleteVolumeResponse, error) {
	return &csipb.DeleteVolumeResponse{}, nil
}

type oneClass struct{}

func (oneClass) Get(_ context.Context, ref class.Ref) (*class.Class, error) {
	return &class.Class{Ref: ref, ResourceVersion: "1", Provider: "fixed"}, nil
}
func (oneClass) Retain(class.Ref)  {}
func (oneClass) Release(class.Ref) {}

type fixed struct{}

func (fixed) Fetch(context.Context, provider.Request) (*provider.Payload, error) {
	return &provider.Payload{Files: []provider.File{{Path: "a", Contents: secret.NewBytes([]byte("b"))}}}, nil
}
