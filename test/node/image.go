package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
)

// BusyboxImage is an image with a shell and busybox's other programs, for
// pods of tests. It is on every node; pods need imagePullPolicy: Never or
// IfNotPresent.
const BusyboxImage = "mayfly.test/busybox:1"

const pauseImage = "mayfly.test/pause:1"

// Image is a container image of one layer.
type Image struct {
	Ref        string // registry/name:tag
	Entrypoint []string
	Cmd        []string
	User       string
	Files      []ImageFile
}

// ImageFile is a file, a symbolic link if Link is set, or a directory if the
// path ends in a slash. Path has no leading slash. Parents come first.
type ImageFile struct {
	Path string
	Data []byte
	Link string
	Mode int64
}

// WriteTar writes the image in the format of "ctr images import" and "docker load". The same image
// gives the same bytes.
func (i Image) WriteTar(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	config, err := json.Marshal(i.config(layer))
	if err != nil {
		return fmt.Errorf("encoding the configuration of image %s: %w", i.Ref, err)
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{i.Ref}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return fmt.Errorf("encoding the manifest of image %s: %w", i.Ref, err)
	}
	archive := tar.NewWriter(w)
	for _, file := range []ImageFile{
		{Path: "config.json", Data: config, Mode: 0o644},
		{Path: "layer.tar", Data: layer, Mode: 0o644},
		{Path: "manifest.json", Data: manifest, Mode: 0o644},
	} {
		if err := file.write(archive); err != nil {
			return fmt.Errorf("writing image %s: %w", i.Ref, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("writing image %s: %w", i.Ref, err)
	}
	return nil
}

func (i Image) layer() ([]byte, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	for _, file := range i.Files {
		if err := file.write(archive); err != nil {
			return nil, fmt.Errorf("writing %s of image %s: %w", file.Path, i.Ref, err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("writing the layer of image %s: %w", i.Ref, err)
	}
	return layer.Bytes(), nil
}

func (i Image) config(layer []byte) map[string]any {
	sum := sha256.Sum256(layer)
	return map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "User": i.User,
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		"rootfs": map[string]any{
			"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])},
		},
	}
}

func (f ImageFile) write(archive *tar.Writer) error {
	header := &tar.Header{Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
	switch {
	case f.Link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
	case strings.HasSuffix(f.Path, "/"):
		header.Typeflag = tar.TypeDir
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(f.Data)
	return err
}

// baseImages makes the pause image and BusyboxImage from one static program.
func baseImages(ctx context.Context, busybox string) ([]Image, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("reading busybox: %w", err)
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing busybox's programs: %w", err)
	}
	files := []ImageFile{
		{Path: "bin/", Mode: 0o755},
		{Path: "etc/", Mode: 0o755},
		{Path: "tmp/", Mode: 0o1777},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{Path: "bin/busybox", Mode: 0o755, Data: program},
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, ImageFile{Path: path.Join("bin", applet), Link: "busybox", Mode: 0o777})
		}
	}
	return []Image{
		{Ref: BusyboxImage, Cmd: []string{"sh"}, Files: files},
		// A waiting shell also reaps the orphans of a shared process namespace.
		{Ref: pauseImage, Entrypoint: []string{"sh", "-c", "while :; do sleep 3600; done"}, Files: files},
	}, nil
}

// LoadImage makes the images of an archive (OCI, or "docker save") known to
// the node. An image of the same name is replaced.
func (n *Node) LoadImage(ctx context.Context, tarPath string) error {
	file, err := os.Open(tarPath)
	if err != nil {
		return fmt.Errorf("opening an image: %w", err)
	}
	defer file.Close()
	if err := n.importImage(ctx, file); err != nil {
		return fmt.Errorf("loading the image %s: %w", tarPath, err)
	}
	return nil
}

// AddImage is LoadImage for an image from a Go value.
func (n *Node) AddImage(ctx context.Context, image Image) error {
	var archive bytes.Buffer
	if err := image.WriteTar(&archive); err != nil {
		return err
	}
	if err := n.importImage(ctx, &archive); err != nil {
		return fmt.Errorf("loading the image %s: %w", image.Ref, err)
	}
	return nil
}

func (n *Node) importImage(ctx context.Context, archive io.Reader) error {
	cmd := n.ctr(ctx, "images", "import", "-")
	cmd.Stdin = archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running ctr images import: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// ctr is containerd's client, in the namespace that kubelet uses.
func (n *Node) ctr(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--address", n.containerd(), "--namespace", "k8s.io"}, args...)
	return exec.CommandContext(ctx, n.programs["ctr"], args...)
}
