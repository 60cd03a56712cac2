// Package kubelet acts as kubelet for one driver: it makes the directories, calls the CSI socket
// with the fields of kubelet of Kubernetes 1.35 and later (or of earlier releases), and reads
// volumes as a pod would.
package kubelet

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Kubelet is one node's agent.
type Kubelet struct {
	// Root is the kubelet root directory, with the pods below it.
	Root     string
	conn     *grpc.ClientConn
	Node     csipb.NodeClient
	Identity csipb.IdentityClient
}

const (
	// redial is how soon a restarted driver is found. Kubelet makes a new connection for each call;
	// a lasting connection backs off longer and longer.
	redial = 5 * time.Millisecond
	// connectTimeout is gRPC's own, which the above would make as short.
	connectTimeout = 20 * time.Second
)

// Dial connects to a driver's CSI socket.
func Dial(root, socket string) (*Kubelet, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: redial, Multiplier: 1, MaxDelay: redial},
			MinConnectTimeout: connectTimeout,
		}))
	if err != nil {
		return nil, fmt.Errorf("dialling the CSI socket %q: %w", socket, err)
	}
	return &Kubelet{Root: root, conn: conn, Node: csipb.NewNodeClient(conn), Identity: csipb.NewIdentityClient(conn)}, nil
}

// Close closes the connection.
func (k *Kubelet) Close() error { return k.conn.Close() }

// Pod is a pod with one inline volume.
type Pod struct {
	Namespace      string
	Name           string
	UID            string
	ServiceAccount string
	// Volume is the volume's name in the pod; "secrets" if empty.
	Volume string
	// Class is the name of the SecretProviderClass.
	Class string
	// Tokens is the JSON of the service account tokens by audience.
	Tokens string
	// TokensInContext passes them in volume_context, as kubelet did before 1.35.
	TokensInContext bool
	// FSGroup is the pod's fsGroup; none if empty.
	FSGroup string
	// SELinuxContext is passed as a mount flag.
	SELinuxContext string
	// Secrets are those of the nodePublishSecretRef.
	Secrets map[string]string
	// Attributes are further volumeAttributes of the pod's author.
	Attributes map[string]string
}

func (p Pod) volume() string {
	if p.Volume == "" {
		return "secrets"
	}
	return p.Volume
}

// VolumeID is kubelet's id for the volume.
func (p Pod) VolumeID() string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(p.volume()+p.UID)))
}

// Target is where the volume is to be mounted.
func (k *Kubelet) Target(p Pod) string {
	return filepath.Join(k.Root, "pods", p.UID, "volumes", "kubernetes.io~csi", p.volume(), "mount")
}

// PublishRequest is the call for the pod.
func (k *Kubelet) PublishRequest(p Pod) *csipb.NodePublishVolumeRequest {
	attributes := map[string]string{
		"secretProviderClass":                    p.Class,
		"csi.storage.k8s.io/pod.name":            p.Name,
		"csi.storage.k8s.io/pod.namespace":       p.Namespace,
		"csi.storage.k8s.io/pod.uid":             p.UID,
		"csi.storage.k8s.io/serviceAccount.name": p.ServiceAccount,
		"csi.storage.k8s.io/ephemeral":           "true",
	}
	maps.Copy(attributes, p.Attributes)
	secrets := maps.Clone(p.Secrets)
	if p.Tokens != "" {
		const key = "csi.storage.k8s.io/serviceAccount.tokens"
		if p.TokensInContext {
			attributes[key] = p.Tokens
		} else {
			if secrets == nil {
				secrets = map[string]string{}
			}
			secrets[key] = p.Tokens
		}
	}
	mount := &csipb.VolumeCapability_MountVolume{VolumeMountGroup: p.FSGroup}
	if p.SELinuxContext != "" {
		mount.MountFlags = []string{fmt.Sprintf("context=%q", p.SELinuxContext)}
	}
	return &csipb.NodePublishVolumeRequest{
		VolumeId: p.VolumeID(), TargetPath: k.Target(p), Readonly: true, VolumeContext: attributes, Secrets: secrets,
		VolumeCapability: &csipb.VolumeCapability{
			AccessType: &csipb.VolumeCapability_Mount{Mount: mount},
			AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
	}
}

// Publish makes the parent directory, as kubelet does, and publishes. Called
// again for a live pod it is a republish.
func (k *Kubelet) Publish(ctx context.Context, p Pod) error {
	if err := os.MkdirAll(filepath.Dir(k.Target(p)), 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	_, err := k.Node.NodePublishVolume(ctx, k.PublishRequest(p))
	return err
}

// Unpublish unpublishes the volume, and removes the pod's directory.
func (k *Kubelet) Unpublish(ctx context.Context, p Pod) error {
	_, err := k.Node.NodeUnpublishVolume(ctx, &csipb.NodeUnpublishVolumeRequest{VolumeId: p.VolumeID(), TargetPath: k.Target(p)})
	if err != nil {
		return err
	}
	return k.removePodDir(p)
}

// removePodDir removes empty directories only: anything left in them is a
// leak, and an error.
func (k *Kubelet) removePodDir(p Pod) error {
	for dir := filepath.Dir(k.Target(p)); dir != filepath.Join(k.Root, "pods"); dir = filepath.Dir(dir) {
		entries, err := os.ReadDir(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case len(entries) > 0 && filepath.Base(dir) == "kubernetes.io~csi":
			return nil // another volume of the pod
		}
		if err := os.Remove(dir); err != nil {
			return fmt.Errorf("removing the pod's directory: %w", err)
		}
	}
	return nil
}

// Read returns the volume's files by path, as a pod sees them: through the links, and without the
// layout's own names.
func (k *Kubelet) Read(p Pod) (map[string]string, error) {
	root := k.Target(p)
	files := map[string]string{}
	data := filepath.Join(root, "..data")
	resolved, err := filepath.EvalSymlinks(data)
	if err != nil {
		return nil, fmt.Errorf("finding the volume's payload: %w", err)
	}
	err = filepath.WalkDir(resolved, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(resolved, path)
		if err != nil {
			return err
		}
		contents, err := os.ReadFile(filepath.Join(root, rel))
		files[rel] = string(contents)
		return err
	})
	return files, err
}

// MappedGroup is the group itself or, in a user namespace that does not have
// it, the namespace's root group: an ordinary user's tests run in one.
func MappedGroup(gid int) int {
	f, err := os.Open("/proc/self/gid_map")
	if err != nil {
		return gid
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var inside, outside, count int
		if n, _ := fmt.Sscan(lines.Text(), &inside, &outside, &count); n == 3 && gid >= inside && gid < inside+count {
			return gid
		}
	}
	return 0
}

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
