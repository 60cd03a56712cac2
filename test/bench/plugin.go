package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// mounts are the three ways to a plugin's answer, in turn for each pod and one at a time: the bare
// call over a warm connection of this program, the provider package in this process, and a publish
// through mayfly-node. For comparison there is a publish of what Vault gave an earlier pod, which
// makes no request.
type mounts struct {
	*node
	plugin   *pluginProcess
	provider provider.Provider

	bare, fetch, published, remembered []time.Duration
}

func measurePlugin(ctx context.Context, w *world, r *results) (err error) {
	p, err := w.startPlugin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	source, end, err := providerPackage(ctx, p.dir)
	if err != nil {
		return err
	}
	defer end()
	m := &mounts{node: w.apiNode("plugin", "--provider-volume="+p.dir, "--additional-provider-volume-paths="), plugin: p, provider: source}
	return m.while(ctx, func() error { return m.run(ctx, &r.Plugin) })
}

// providerPackage is the driver's own client of plugins, in this process. end closes its
// connections.
func providerPackage(ctx context.Context, dir string) (source provider.Provider, end func(), err error) {
	registry, err := plugin.New(plugin.Config{Dirs: []string{dir}})
	if err != nil {
		return nil, nil, err
	}
	if source, err = registry.Get(pluginName); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = registry.Run(ctx) // fails with the context and not otherwise
	}()
	return source, func() {
		cancel()
		<-ended
	}, nil
}

// run does a round that warms everything up, and then those that count.
func (m *mounts) run(ctx context.Context, r *pluginTimes) error {
	if err := m.round(ctx, 0); err != nil {
		return err
	}
	m.bare, m.fetch, m.published, m.remembered = nil, nil, nil, nil
	for i := range m.config.rounds {
		if err := m.round(ctx, i+1); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	r.Calls = len(m.bare)
	r.Bare, r.Fetch, r.Publish, r.Remembered = middle(m.bare), middle(m.fetch), middle(m.published), middle(m.remembered)
	say("plugin, p50: %.3f ms alone, %.3f ms through the provider package, %.3f ms a publish", r.Bare, r.Fetch, r.Publish)
	return nil
}

func middle(took []time.Duration) float64 {
	return ms(percentile(slices.Sorted(slices.Values(took)), 0.5))
}

func (m *mounts) round(ctx context.Context, number int) error {
	pods := m.pods(fmt.Sprintf("plugin-%d", number), plugged, m.config.pods)
	others := m.somePods(len(pods)+1, fmt.Sprintf("memory-%d", number), steady, 1)
	all := slices.Concat(pods, others)
	for _, p := range all {
		if err := os.MkdirAll(filepath.Dir(m.kubelet.Target(p)), 0o750); err != nil {
			return err
		}
	}
	// For the first of them Vault is asked, for the others not any more.
	if err := m.kubelet.Publish(ctx, others[0]); err != nil {
		return err
	}
	for i, p := range pods {
		if err := m.pod(ctx, p); err != nil {
			return fmt.Errorf("pod %s: %w", p.Name, err)
		}
		if err := m.timedPublish(ctx, &m.remembered, others[i+1]); err != nil {
			return fmt.Errorf("pod %s: %w", others[i+1].Name, err)
		}
	}
	return m.unpublishGood(ctx, all)
}

func (m *mounts) timedPublish(ctx context.Context, took *[]time.Duration, p kubelet.Pod) error {
	request := m.kubelet.PublishRequest(p)
	return timed(took, func() error {
		_, err := m.kubelet.Node.NodePublishVolume(ctx, request)
		return err
	})
}

// pod gets one pod's files in every way.
func (m *mounts) pod(ctx context.Context, p kubelet.Pod) error {
	mount, err := mountRequest(p, m.kubelet.Target(p))
	if err != nil {
		return err
	}
	fetch, err := fetchRequest(p, m.kubelet.Target(p), pluginName, pluginParameters())
	if err != nil {
		return err
	}
	var answer *v1alpha1.MountResponse
	var payload *provider.Payload
	if err := timed(&m.bare, func() error { answer, err = m.plugin.client.Mount(ctx, mount); return err }); err != nil {
		return fmt.Errorf("calling the plugin: %w", err)
	}
	if err := timed(&m.fetch, func() error { payload, err = m.provider.Fetch(ctx, fetch); return err }); err != nil {
		return fmt.Errorf("calling the provider package: %w", err)
	}
	if err := m.timedPublish(ctx, &m.published, p); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return sameFiles(answer, payload)
}

func timed(took *[]time.Duration, do func() error) error {
	began := time.Now()
	err := do()
	*took = append(*took, time.Since(began))
	return err
}

// sameFiles checks whether both ways gave the volume's content.
func sameFiles(answer *v1alpha1.MountResponse, payload *provider.Payload) error {
	bare, fetched := map[string]string{}, files(payload)
	for _, f := range answer.GetFiles() {
		bare[f.GetPath()] = string(f.GetContents())
	}
	if want := wanted(plugged, "1"); !maps.Equal(bare, want) || !maps.Equal(fetched, want) {
		return fmt.Errorf("the plugin gave %v, the provider package %v, not %v", bare, fetched, want)
	}
	return nil
}

func files(payload *provider.Payload) map[string]string {
	out := map[string]string{}
	for _, f := range payload.Files {
		out[f.Path] = string(f.Contents.Reveal())
	}
	return out
}

// fetchRequest is mayfly-node's request to its provider packages.
func fetchRequest(p kubelet.Pod, target, name string, parameters map[string]string) (provider.Request, error) {
	tokens, err := identity.ParseTokens(p.Tokens)
	if err != nil {
		return provider.Request{}, err
	}
	return provider.Request{
		Volume: p.VolumeID(), Tokens: tokens, TokensInSecrets: true, TargetPath: target,
		Pod:   identity.Pod{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ServiceAccount: p.ServiceAccount},
		Class: &class.Class{Ref: class.Ref{Namespace: p.Namespace, Name: p.Class}, Provider: name, Parameters: parameters},
	}, nil
}

// mountRequest is the same request in the protocol's form.
func mountRequest(p kubelet.Pod, target string) (*v1alpha1.MountRequest, error) {
	const tokens = identity.TokensKey
	attributes := pluginParameters()
	maps.Copy(attributes, map[string]string{
		"secretProviderClass": p.Class, "csi.storage.k8s.io/pod.name": p.Name, "csi.storage.k8s.io/pod.namespace": p.Namespace,
		"csi.storage.k8s.io/pod.uid": p.UID, "csi.storage.k8s.io/serviceAccount.name": p.ServiceAccount,
		"csi.storage.k8s.io/ephemeral": "true", tokens: p.Tokens,
	})
	a, err := json.Marshal(attributes)
	if err != nil {
		return nil, err
	}
	s, err := json.Marshal(map[string]string{tokens: p.Tokens})
	if err != nil {
		return nil, err
	}
	return &v1alpha1.MountRequest{Attributes: string(a), Secrets: string(s), TargetPath: target, Permission: "420"}, nil
}

// pluginName is the provider's name in classes, and its program's name.
const pluginName = "pluginprovider"

const (
	pluginStart = 10 * time.Second
	pluginStop  = 10 * time.Second
)

// pluginProcess is this project's provider plugin as a process, and a connection to it.
type pluginProcess struct {
	dir string // of its socket
	*testkit.Process
	conn   *grpc.ClientConn
	client v1alpha1.CSIDriverProviderClient
}

// startPlugin starts the plugin with the objects of the class plugged, and
// waits until it listens.
func (w *world) startPlugin(ctx context.Context) (_ *pluginProcess, err error) {
	p := &pluginProcess{dir: filepath.Join(w.dir, "plugins")}
	store := filepath.Join(w.dir, "objects")
	if err := os.Mkdir(store, 0o700); err != nil {
		return nil, err
	}
	files := wanted(plugged, "1")
	for object, value := range map[string]string{
		"username": files["db/username"], "password": files["db/password"], "key": files["api-key"],
	} {
		if err := os.WriteFile(filepath.Join(store, object), []byte(value), 0o600); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(w.plugin, "--dir="+p.dir, "--name="+pluginName, "--store="+store)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.Process, err = testkit.StartProcess(cmd); err != nil {
		return nil, err
	}
	if err := p.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the plugin: %w", err), p.stop())
	}
	return p, nil
}

func (p *pluginProcess) socket() string { return filepath.Join(p.dir, pluginName+".sock") }

func (p *pluginProcess) connect(ctx context.Context) error {
	err := poll(ctx, pluginStart, "it does not listen", 10*time.Millisecond, func() (bool, error) {
		conn, err := net.Dial("unix", p.socket())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	if p.conn, err = grpc.NewClient("unix:"+p.socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost")); err != nil {
		return err
	}
	p.client = v1alpha1.NewCSIDriverProviderClient(p.conn)
	return nil
}

func (p *pluginProcess) stop() error {
	var err error
	if p.conn != nil {
		err = p.conn.Close()
	}
	if err = errors.Join(err, p.Stop(pluginStop)); err == nil && p.Err() != nil {
		err = fmt.Errorf("stopping the plugin: %w", p.Err())
	}
	return err
}

// sizeOf measures the program. It strips one that was built here, as releases are.
func sizeOf(w *world) (binary, error) {
	info, err := os.Stat(w.binary)
	if err != nil {
		return binary{}, fmt.Errorf("measuring the binary: %w", err)
	}
	return binary{Bytes: info.Size(), Arch: runtime.GOARCH, Given: w.config.driver != ""}, nil
}
