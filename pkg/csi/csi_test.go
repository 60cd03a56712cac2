package csi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/csi"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// volumes is the work behind the Node service, as tests want it to go.
type volumes struct {
	mu        sync.Mutex
	published map[string]volume.Request
	err       error
	panics    any
	gate      chan struct{}
	entered   chan struct{}
}

func (v *volumes) Publish(ctx context.Context, r volume.Request) error {
	if v.gate != nil {
		close(v.entered)
		select {
		case <-v.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.panics != nil {
		panic(v.panics)
	}
	if v.err == nil {
		v.published[r.ID] = r
	}
	return v.err
}

func (v *volumes) Unpublish(_ context.Context, id, _ string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.published, id)
	return v.err
}

func (v *volumes) Stats(id, path string) (tmpfs.Stats, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r, ok := v.published[id]; !ok || r.Target != path {
		return tmpfs.Stats{}, fault.New(fault.NotFound, "volume %s is not published at %q", id, path)
	}
	return tmpfs.Stats{Bytes: tmpfs.Usage{Total: 10, Used: 4, Available: 6}, Inodes: tmpfs.Usage{Total: 5, Used: 2, Available: 3}}, nil
}

// rig is a served driver and a kubelet that calls it.
type rig struct {
	*kubelet.Kubelet
	volumes *volumes
	log     *testkit.Log
	socket  string
	stop    func() error
}

func serve(t *testing.T, ready func() error) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // a socket's path must be short
	testkit.Must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{volumes: &volumes{published: map[string]volume.Request{}}, log: &testkit.Log{}, socket: filepath.Join(dir, "csi.sock")}
	server := r.server(t, ready)
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = r.stop() })
	if r.Kubelet, err = kubelet.Dial(dir, r.socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func (r *rig) server(t *testing.T, ready func() error) *csi.Server {
	t.Helper()
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := csi.NewServer("unix://"+r.socket,
		&csi.Identity{Driver: "secrets-store.csi.k8s.io", Version: "v1", Ready: ready},
		&csi.Node{NodeID: "node-1", Volumes: r.volumes},
		csi.Options{Logger: log, Grace: 10 * time.Second})
	testkit.Must(t, err)
	return s
}

func healthy() error { return nil }

var pod = kubelet.Pod{
	Namespace: "shop", Name: "web-0", UID: "u-1", ServiceAccount: "web", Class: "secrets", FSGroup: "2000",
	Tokens:         `{"vault":{"token":"s3cr3t-jwt","expirationTimestamp":"2036-01-02T03:04:05Z"}}`,
	SELinuxContext: "system_u:object_r:container_file_t:s0:c1,c2",
	Secrets:        map[string]string{"user": "s3cr3t-pass"},
}

func TestPublishRequestReachesTheVolumes(t *testing.T) {
	for _, inContext := range []bool{false, true} {
		t.Run(fmt.Sprintf("tokens in context %t", inContext), func(t *testing.T) {
			r := serve(t, healthy)
			p := pod
			p.TokensInContext = inContext
			p.Attributes = map[string]string{"roleName": "admin", "vaultAddress": "http://evil"}
			testkit.Must(t, r.Publish(t.Context(), p))
			got := r.volumes.published[p.VolumeID()]
			if got.Pod.Name != "web-0" || got.Pod.Namespace != "shop" || got.Pod.UID != "u-1" || got.Pod.ServiceAccount != "web" ||
				got.Class.String() != "shop/secrets" || got.GID == nil || *got.GID != 2000 || got.SELinuxContext != p.SELinuxContext ||
				got.Target != r.Target(p) {
				t.Errorf("the volumes were asked for %+v", got)
			}
			if got.Tokens["vault"].JWT.Reveal() != "s3cr3t-jwt" || len(got.Secrets) != 1 || got.Secrets["user"].Reveal() != "s3cr3t-pass" {
				t.Errorf("tokens %v, secrets %v", got.Tokens, got.Secrets)
			}
			if got.TokensInSecrets == inContext {
				t.Errorf("the tokens were in secrets: %t", got.TokensInSecrets)
			}
			stats, err := r.Node.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: p.VolumeID(), VolumePath: r.Target(p)})
			if err != nil || len(stats.GetUsage()) != 2 || stats.GetUsage()[0].GetUsed() != 4 {
				t.Errorf("stats %v, %v", stats, err)
			}
			testkit.Lacks(t, r.log.String(), "s3cr3t")
		})
	}
}

func TestBadPublishes(t *testing.T) {
	r := serve(t, healthy)
	for name, tc := range map[string]struct {
		spoil func(q *csipb.NodePublishVolumeRequest)
		text  string
	}{
		"volume id":       {func(q *csipb.NodePublishVolumeRequest) { q.VolumeId = "" }, "volume_id is missing"},
		"target":          {func(q *csipb.NodePublishVolumeRequest) { q.TargetPath = "" }, "target_path is missing"},
		"relative target": {func(q *csipb.NodePublishVolumeRequest) { q.TargetPath = "a/b" }, "not absolute"},
		"unclean target":  {func(q *csipb.NodePublishVolumeRequest) { q.TargetPath = "/a/../b" }, "not clean"},
		"root target":     {func(q *csipb.NodePublishVolumeRequest) { q.TargetPath = "/" }, "root directory"},
		"NUL target":      {func(q *csipb.NodePublishVolumeRequest) { q.TargetPath = "/a\x00b" }, "NUL"},
		"long target":     {func(q *csipb.NodePublishVolumeRequest) { q.TargetPath = "/" + strings.Repeat("a", 5000) }, "5001 bytes"},
		"capability":      {func(q *csipb.NodePublishVolumeRequest) { q.VolumeCapability = nil }, "volume_capability is missing"},
		"block": {func(q *csipb.NodePublishVolumeRequest) {
			q.VolumeCapability.AccessType = &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}
		}, "block volumes"},
		"writable":      {func(q *csipb.NodePublishVolumeRequest) { q.Readonly = false }, "readOnly: true"},
		"not ephemeral": {func(q *csipb.NodePublishVolumeRequest) { q.VolumeContext["csi.storage.k8s.io/ephemeral"] = "false" }, "inline volumes"},
		"no class":      {func(q *csipb.NodePublishVolumeRequest) { delete(q.VolumeContext, "secretProviderClass") }, "secretProviderClass"},
		"hostile class": {func(q *csipb.NodePublishVolumeRequest) { q.VolumeContext["secretProviderClass"] = "../../secrets/x" }, `"../../secrets/x"`},
		"hostile space": {func(q *csipb.NodePublishVolumeRequest) { q.VolumeContext["csi.storage.k8s.io/pod.namespace"] = "a/b" }, "pod.namespace"},
		"no pod info":   {func(q *csipb.NodePublishVolumeRequest) { delete(q.VolumeContext, "csi.storage.k8s.io/pod.uid") }, "podInfoOnMount"},
		"no account": {func(q *csipb.NodePublishVolumeRequest) {
			delete(q.VolumeContext, "csi.storage.k8s.io/serviceAccount.name")
		}, "serviceAccount.name"},
		"empty context": {func(q *csipb.NodePublishVolumeRequest) { q.VolumeContext = nil }, "secretProviderClass"},
		"garbled tokens": {func(q *csipb.NodePublishVolumeRequest) {
			q.Secrets["csi.storage.k8s.io/serviceAccount.tokens"] = `{"vault":"s3cr3t`
		}, "serviceAccount.tokens"},
		"group":          {func(q *csipb.NodePublishVolumeRequest) { q.VolumeCapability.GetMount().VolumeMountGroup = "wheel" }, `"wheel"`},
		"negative group": {func(q *csipb.NodePublishVolumeRequest) { q.VolumeCapability.GetMount().VolumeMountGroup = "-1" }, `"-1"`},
		"flag": {func(q *csipb.NodePublishVolumeRequest) {
			q.VolumeCapability.GetMount().MountFlags = []string{"ro", "suid"}
		}, `mount_flags[1] "suid"`},
	} {
		t.Run(name, func(t *testing.T) {
			q := proto.CloneOf(r.PublishRequest(pod))
			tc.spoil(q)
			_, err := r.Node.NodePublishVolume(t.Context(), q)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("got %v, want InvalidArgument that says %q and shows no token", err, tc.text)
			}
		})
	}
	testkit.Equal(t, "bad requests reached the volumes", len(r.volumes.published), 0)
}

func TestBadUnpublishesAndStats(t *testing.T) {
	r := serve(t, healthy)
	for _, q := range []*csipb.NodeUnpublishVolumeRequest{{}, {VolumeId: "v"}, {TargetPath: "/t"}, {VolumeId: "v", TargetPath: "t"}} {
		if _, err := r.Node.NodeUnpublishVolume(t.Context(), q); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: got %v", q, err)
		}
	}
	for _, q := range []*csipb.NodeGetVolumeStatsRequest{{}, {VolumeId: "v"}, {VolumePath: "/t"}} {
		if _, err := r.Node.NodeGetVolumeStats(t.Context(), q); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: got %v", q, err)
		}
	}
	if _, err := r.Node.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: "v", VolumePath: "/t"}); status.Code(err) != codes.NotFound {
		t.Errorf("stats of an unknown volume: %v", err)
	}
	if _, err := r.Node.NodeStageVolume(t.Context(), &csipb.NodeStageVolumeRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("NodeStageVolume: %v", err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	r := serve(t, healthy)
	r.volumes.panics = "quoting s3cr3t"
	err := r.Publish(t.Context(), pod)
	if status.Code(err) != codes.Internal || strings.Contains(err.Error()+r.log.String(), "s3cr3t") {
		t.Errorf("got %v, log:\n%s", err, r.log)
	}
	if !strings.Contains(r.log.String(), "csi_test.go") {
		t.Error("the log has no stack")
	}
	r.volumes.panics = nil
	if err := r.Publish(t.Context(), pod); err != nil {
		t.Errorf("the driver did not go on: %v", err)
	}
}

func TestKeptContentNeverGetsAFinalCode(t *testing.T) {
	r := serve(t, healthy)
	r.volumes.err = &volume.KeptError{Err: fault.New(fault.Denied, "permission denied")}
	err := r.Publish(t.Context(), pod)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v, want Unavailable with the store's words", err)
	}
}

func TestFailureKeepsItsCodeAndWords(t *testing.T) {
	r := serve(t, healthy)
	r.volumes.err = fault.New(fault.Denied, "logging in: service account name not authorized").WithHint("bind it")
	err := r.Publish(t.Context(), pod)
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "service account name not authorized (bind it)") {
		t.Errorf("got %v", err)
	}
	testkit.Equal(t, "times that the failure was logged", strings.Count(r.log.String(), "service account name not authorized"), 1)
}

func TestIdentityTellsTheTruth(t *testing.T) {
	var sick error
	r := serve(t, func() error { return sick })
	probe := func() bool {
		resp := testkit.Value(r.Identity.Probe(t.Context(), &csipb.ProbeRequest{}))(t)
		return resp.GetReady().GetValue()
	}
	if !probe() {
		t.Error("not ready")
	}
	sick = errors.New("no")
	if probe() {
		t.Error("ready")
	}
	info, err := r.Identity.GetPluginInfo(t.Context(), &csipb.GetPluginInfoRequest{})
	if err != nil || info.GetName() != "secrets-store.csi.k8s.io" || info.GetVendorVersion() != "v1" {
		t.Errorf("%v, %v", info, err)
	}
	node, err := r.Node.NodeGetInfo(t.Context(), &csipb.NodeGetInfoRequest{})
	if err != nil || node.GetNodeId() != "node-1" {
		t.Errorf("%v, %v", node, err)
	}
}

func TestStopLetsRunningCallsFinish(t *testing.T) {
	r := serve(t, healthy)
	r.volumes.gate, r.volumes.entered = make(chan struct{}), make(chan struct{})
	answered := make(chan error, 1)
	go func() { answered <- r.Publish(t.Context(), pod) }()
	<-r.volumes.entered
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("stopped under a running call: %v", err)
	case <-time.After(50 * time.Millisecond): // it has had its chance to be wrong
	}
	close(r.volumes.gate)
	if err := <-answered; err != nil {
		t.Errorf("the running call failed: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func TestSocket(t *testing.T) {
	r := serve(t, healthy)
	info, err := os.Stat(r.socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v: want mode 0600", info, err)
	}
	testkit.Says(t, r.server(t, healthy).Run(t.Context(), func() {}), "another process") // a second driver on the socket
	file := filepath.Join(filepath.Dir(r.socket), "file")
	testkit.Must(t, os.WriteFile(file, []byte("precious"), 0o600))
	other := &rig{volumes: r.volumes, log: r.log, socket: file}
	testkit.Says(t, other.server(t, healthy).Run(t.Context(), func() {}), "in the way") // a file in the way
}

func TestStaleSocketIsReplaced(t *testing.T) {
	r := serve(t, healthy)
	testkit.Must(t, r.stop())
	staleSocket(t, r.socket)
	ctx, cancel := context.WithCancel(t.Context())
	if err := r.server(t, healthy).Run(ctx, cancel); err != nil {
		t.Errorf("the socket of a dead process stops the next: %v", err)
	}
}

// staleSocket creates the socket file of a killed process.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	l := testkit.Value(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))(t)
	l.SetUnlinkOnClose(false)
	testkit.Must(t, l.Close())
}

func TestParseEndpoint(t *testing.T) {
	for _, tc := range []struct{ in, want, fail string }{
		{"unix:///csi/csi.sock", "/csi/csi.sock", ""},
		{"unix:/csi/csi.sock", "/csi/csi.sock", ""},
		{"/csi/csi.sock", "/csi/csi.sock", ""},
		{"tcp://127.0.0.1:10000", "", "only unix sockets"},
		{"unix://csi.sock", "", "absolute"},
		{"", "", "absolute"},
		{"/" + strings.Repeat("a", 200), "", "the kernel's limit"},
	} {
		got, err := csi.ParseEndpoint(tc.in)
		if got != tc.want || (err == nil) != (tc.fail == "") || (err != nil && !strings.Contains(err.Error(), tc.fail)) {
			t.Errorf("ParseEndpoint(%q) = %q, %v; want %q, %q", tc.in, got, err, tc.want, tc.fail)
		}
	}
}

func TestRegistration(t *testing.T) {
	r := serve(t, healthy)
	dir := filepath.Dir(r.socket)
	reg, server, err := csi.NewRegistration(dir, "secrets-store.csi.k8s.io", "/host/csi.sock", csi.Options{Logger: slog.New(slog.NewTextHandler(r.log, nil)), Grace: time.Second})
	testkit.Must(t, err)
	up := make(chan struct{})
	go func() { _ = server.Run(t.Context(), func() { close(up) }) }()
	<-up
	testkit.Says(t, reg.Ready(), "not registered the driver yet") // before kubelet came
	socket := filepath.Join(dir, "secrets-store.csi.k8s.io-reg.sock")
	info, err := kubelet.Register(t.Context(), socket, nil)
	if err != nil || info.GetType() != "CSIPlugin" || info.GetName() != "secrets-store.csi.k8s.io" || info.GetEndpoint() != "/host/csi.sock" || len(info.GetSupportedVersions()) != 1 {
		t.Errorf("kubelet was told %v, %v", info, err)
	}
	if err := reg.Ready(); err != nil {
		t.Errorf("after the registration: %v", err)
	}
	testkit.Value(kubelet.Register(t.Context(), socket, errors.New("version mismatch")))(t)
	testkit.Says(t, reg.Ready(), "version mismatch") // after a refusal
}
