package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

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
