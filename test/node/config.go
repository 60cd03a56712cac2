package node

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"text/template"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/mayfly-csi/mayfly/test/pki"
)

//go:embed config
var configFiles embed.FS

// settings are the data for the templates in config/.
type settings struct {
	Dir, Address, Cgroup    string
	KubeletPort             int
	PauseImage, Snapshotter string
	Runc, Busybox           string
}

func (n *Node) settings() settings {
	return settings{
		Dir:         n.dir,
		Address:     n.address(),
		Cgroup:      n.cgroup(),
		KubeletPort: kubeletPort,
		PauseImage:  pauseImage,
		Snapshotter: snapshotter(n.dir),
		Runc:        n.programs["runc"],
		Busybox:     n.programs["busybox"],
	}
}

// snapshotter avoids overlayfs on top of overlayfs, which the kernel refuses: the folder is on
// overlayfs when the node itself runs in a container.
func snapshotter(dir string) string {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

// writeConfig renders the files of config/ into the node's folder.
func (n *Node) writeConfig() error {
	files := []struct {
		source, path string
		mode         fs.FileMode
	}{
		{"containerd.toml", n.path("containerd.toml"), 0o644},
		{"kubelet.yaml", n.path("kubelet.yaml"), 0o644},
		{"audit.yaml", n.path("audit.yaml"), 0o644},
		{"cni.conflist", n.path("cni", "net.d", "10-isolated.conflist"), 0o644},
		{"cni.sh", n.path("cni", "bin", "isolated"), 0o755},
		{"cni.sh", n.path("cni", "bin", "loopback"), 0o755},
	}
	for _, file := range files {
		data, err := render(file.source, n.settings())
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(file.path), 0o755); err != nil {
			return fmt.Errorf("making a folder of the node: %w", err)
		}
		if err := os.WriteFile(file.path, data, file.mode); err != nil {
			return fmt.Errorf("writing a file of the node: %w", err)
		}
	}
	return nil
}

func render(name string, data settings) ([]byte, error) {
	parsed, err := template.New(name).Option("missingkey=error").ParseFS(configFiles, "config/"+name)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("rendering %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// The longest socket below the folder is a driver's registration socket, and
// the kernel takes 107 bytes. Overlay mounts cannot name a path with a colon
// or a comma.
const maxDirLength = 45

var plainPath = regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`)

// DefaultDir is $MAYFLY_NODE_DIR, or a folder under the temporary directory.
func DefaultDir() string {
	if dir := os.Getenv("MAYFLY_NODE_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(os.TempDir(), "mayfly-node")
}

// layout has the paths of everything in a node's folder.
type layout struct {
	dir string
}

func newLayout(dir string) (layout, error) {
	if dir == "" {
		dir = DefaultDir()
	}
	dir, err := realPath(dir)
	if err != nil {
		return layout{}, fmt.Errorf("finding the node's folder: %w", err)
	}
	if !plainPath.MatchString(dir) || len(dir) > maxDirLength || filepath.Dir(dir) == dir {
		return layout{}, fmt.Errorf("the node's folder %q: want at most %d of the characters A-Z a-z 0-9 . _ / -", dir, maxDirLength)
	}
	return layout{dir: dir}, nil
}

// realPath resolves symbolic links, because the kernel's list of mounts shows
// real paths, of a path whose last elements need not exist.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	switch real, err := filepath.EvalSymlinks(path); {
	case err == nil:
		return real, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	parent, err := realPath(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

func (l layout) marker() string      { return l.path(".mayfly-node") }
func (l layout) kubeconfig() string  { return l.path("kubeconfig") }
func (l layout) kubeletRoot() string { return l.path("kubelet") }
func (l layout) run() string         { return l.path("run") }
func (l layout) pki(f string) string { return l.path("pki", f) }
func (l layout) containerd() string  { return l.path("run", "containerd.sock") }
func (l layout) undo() string        { return l.path("undo.json") }

func (l layout) log(c Component) string { return l.path("log", string(c)+".log") }

func (l layout) hash() [sha256.Size]byte { return sha256.Sum256([]byte(l.dir)) }

// address is a loopback address of the node's own, so that nodes in different folders, and other
// listeners on 127.0.0.1, do not conflict. It is the node's name too: only by its name kubelet
// accepts a loopback address as the node's.
func (l layout) address() string {
	h := l.hash()
	return fmt.Sprintf("127.%d.%d.1", 64+h[0]%64, h[1])
}

// serviceRange has address as its first one, which Kubernetes gives to the
// service that pods reach the API server by. The server listens on that very
// address, so no packet needs to be redirected.
func (l layout) serviceRange() string {
	h := l.hash()
	return fmt.Sprintf("127.%d.%d.0/24", 64+h[0]%64, h[1])
}

func (l layout) cgroup() string {
	h := l.hash()
	return fmt.Sprintf("mayfly-node-%x", h[:4])
}

// masters is the group that may do anything.
const masters = "system:masters"

// writeCredentials makes every key and certificate of the cluster, and the kubeconfigs with them.
func (l layout) writeCredentials() error {
	if err := l.writeEtcdCredentials(); err != nil {
		return err
	}
	serviceAccounts, err := pki.NewServiceAccountKey()
	if err != nil {
		return err
	}
	if err := l.writePair("service-accounts", serviceAccounts); err != nil {
		return err
	}
	ca, caCert, err := pki.NewAuthority("mayfly-node")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.pki("ca.crt"), caCert, 0o600); err != nil {
		return fmt.Errorf("writing the cluster's CA certificate: %w", err)
	}
	for file, id := range l.certificates() {
		pair, err := ca.Issue(id)
		if err != nil {
			return err
		}
		if err := l.writePair(file, pair); err != nil {
			return err
		}
	}
	for path, id := range l.clients() {
		pair, err := ca.Issue(id)
		if err != nil {
			return err
		}
		if err := l.writeKubeconfig(path, caCert, pair); err != nil {
			return err
		}
	}
	return nil
}

// writeEtcdCredentials gives etcd an authority of its own: write access to etcd is full control of
// the cluster, so no client of the API server may have it.
func (l layout) writeEtcdCredentials() error {
	ca, caCert, err := pki.NewAuthority("mayfly-node-etcd")
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.pki("etcd-ca.crt"), caCert, 0o600); err != nil {
		return fmt.Errorf("writing etcd's CA certificate: %w", err)
	}
	pair, err := ca.Issue(pki.Identity{Name: "etcd", Hosts: []string{l.address()}})
	if err != nil {
		return err
	}
	return l.writePair("etcd", pair)
}

func (l layout) certificates() map[string]pki.Identity {
	return map[string]pki.Identity{
		"apiserver": {Name: "kube-apiserver", Hosts: []string{
			l.address(), "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		}},
		"apiserver-kubelet": {Name: "kube-apiserver-kubelet-client", Group: masters},
		"kubelet":           {Name: l.address(), Hosts: []string{l.address()}},
	}
}

func (l layout) clients() map[string]pki.Identity {
	return map[string]pki.Identity{
		l.kubeconfig():                             {Name: "mayfly-node-admin", Group: masters},
		l.pki(string(Kubelet) + ".conf"):           {Name: "system:node:" + l.address(), Group: "system:nodes"},
		l.pki(string(Scheduler) + ".conf"):         {Name: "system:kube-scheduler"},
		l.pki(string(ControllerManager) + ".conf"): {Name: "system:kube-controller-manager"},
	}
}

func (l layout) writeKubeconfig(path string, ca []byte, client pki.Pair) error {
	const name = "mayfly-node"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: l.server(), CertificateAuthorityData: ca}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: client.Cert, ClientKeyData: client.Key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

func (l layout) server() string { return "https://" + l.address() + ":443" }

// writePair writes a pair as NAME.crt and NAME.key.
func (l layout) writePair(name string, p pki.Pair) error {
	if err := os.WriteFile(l.pki(name+".crt"), p.Cert, 0o600); err != nil {
		return fmt.Errorf("writing the certificate of %s: %w", name, err)
	}
	if err := os.WriteFile(l.pki(name+".key"), p.Key, 0o600); err != nil {
		return fmt.Errorf("writing the key of %s: %w", name, err)
	}
	return nil
}
