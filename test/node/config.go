package node

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"
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
