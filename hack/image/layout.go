package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is an OCI image layout: blobs by their digest, and an index.
type layout struct {
	blobs map[digest.Digest][]byte
	index v1.Index
	// docker is the manifest.json in which "docker load" finds images.
	docker []dockerImage
}

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (o *options) writeImage(ctx context.Context, stdout io.Writer) error {
	l := &layout{blobs: map[digest.Digest][]byte{}}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("making the output directory: %w", err)
	}
	var manifests []v1.Descriptor
	for _, p := range o.platforms {
		binary, err := o.compile(ctx, p)
		if err != nil {
			return err
		}
		manifest, err := o.addPlatform(l, p, binary)
		if err != nil {
			return fmt.Errorf("making the image for %s: %w", p, err)
		}
		manifests = append(manifests, manifest)
		path := filepath.Join(o.out, fmt.Sprintf("%s_%s_%s_%s.spdx.json", o.program, o.version, p.os, p.arch))
		if err := o.writeSBOM(path, p, binary, manifest.Digest); err != nil {
			return err
		}
		fmt.Fprintln(stdout, path)
	}
	index, err := o.addIndex(l, manifests)
	if err != nil {
		return err
	}
	path := filepath.Join(o.out, fmt.Sprintf("%s_%s.oci.tar", o.program, o.version))
	if err := l.writeFile(path, o); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	fmt.Fprintf(stdout, "%s\n%s:%s@%s\n", path, o.name, o.version, index.Digest)
	return nil
}

// addPlatform adds the image of one platform.
func (o *options) addPlatform(l *layout, p platform, binary []byte) (v1.Descriptor, error) {
	when := o.created()
	var plain, packed bytes.Buffer
	if err := writeLayer(&plain, o.files(binary), when); err != nil {
		return v1.Descriptor{}, err
	}
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if _, err := zip.Write(plain.Bytes()); err != nil {
		return v1.Descriptor{}, err
	}
	if err := zip.Close(); err != nil {
		return v1.Descriptor{}, err
	}
	layer := l.add(v1.MediaTypeImageLayerGzip, packed.Bytes())
	config, err := l.addJSON(v1.MediaTypeImageConfig, v1.Image{
		Created:  &when,
		Platform: v1.Platform{OS: p.os, Architecture: p.arch},
		Config:   v1.ImageConfig{User: "0:0", Entrypoint: []string{"/" + o.program}, WorkingDir: "/", Labels: o.annotations()},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain.Bytes())}},
		History:  []v1.History{{Created: &when, CreatedBy: "hack/image"}},
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := l.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: config, Layers: []v1.Descriptor{layer}, Annotations: o.annotations(),
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest.Platform = &v1.Platform{OS: p.os, Architecture: p.arch}
	l.docker = append(l.docker, dockerImage{blobPath(config.Digest), []string{o.dockerTag(p)}, []string{blobPath(layer.Digest)}})
	return manifest, nil
}

// dockerTag is the name in Docker's own format, which has no images for several platforms: with
// several, each gets a tag with its architecture.
func (o *options) dockerTag(p platform) string {
	if len(o.platforms) == 1 {
		return o.name + ":" + o.version
	}
	return o.name + ":" + o.version + "-" + p.arch
}

// addIndex adds the index of all platforms, and names it.
func (o *options) addIndex(l *layout, manifests []v1.Descriptor) (v1.Descriptor, error) {
	index, err := l.addJSON(v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: manifests, Annotations: o.annotations(),
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	named := index
	named.Annotations = map[string]string{
		v1.AnnotationRefName:       o.version,
		"io.containerd.image.name": o.name + ":" + o.version,
	}
	l.index = v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{named},
	}
	return index, nil
}

func (o *options) annotations() map[string]string {
	const repository = "https://github.com/mayfly-csi/mayfly"
	all := map[string]string{
		v1.AnnotationTitle:       o.program,
		v1.AnnotationDescription: descriptions()[o.program],
		v1.AnnotationLicenses:    "Apache-2.0",
		v1.AnnotationSource:      repository,
		v1.AnnotationURL:         repository,
		v1.AnnotationVersion:     o.version,
		v1.AnnotationCreated:     o.created().Format("2006-01-02T15:04:05Z"),
	}
	if o.revision != "" {
		all[v1.AnnotationRevision] = o.revision
	}
	return all
}

func (l *layout) add(mediaType string, data []byte) v1.Descriptor {
	sum := digest.FromBytes(data)
	l.blobs[sum] = data
	return v1.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(data))}
}

func (l *layout) addJSON(mediaType string, value any) (v1.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("encoding %s: %w", mediaType, err)
	}
	return l.add(mediaType, data), nil
}

func blobPath(sum digest.Digest) string {
	return "blobs/" + sum.Algorithm().String() + "/" + sum.Encoded()
}

// writeFile writes the layout as a tar archive. It writes to a temporary file beside path, so that
// path is never half an image.
func (l *layout) writeFile(path string, o *options) error {
	list, err := l.files()
	if err != nil {
		return err
	}
	scratch, err := os.CreateTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name())
	defer scratch.Close()
	if err := writeLayer(scratch, list, o.created()); err != nil {
		return err
	}
	if err := scratch.Chmod(0o644); err != nil {
		return err
	}
	if err := scratch.Close(); err != nil {
		return err
	}
	return os.Rename(scratch.Name(), path)
}

// files are the files of the layout, in a fixed order.
func (l *layout) files() ([]file, error) {
	index, err := json.Marshal(l.index)
	if err != nil {
		return nil, fmt.Errorf("encoding the index: %w", err)
	}
	docker, err := json.Marshal(l.docker)
	if err != nil {
		return nil, fmt.Errorf("encoding manifest.json: %w", err)
	}
	version, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", v1.ImageLayoutFile, err)
	}
	list := []file{{"blobs/", 0o755, nil}, {"blobs/sha256/", 0o755, nil}}
	for _, sum := range slices.Sorted(maps.Keys(l.blobs)) {
		list = append(list, file{blobPath(sum), 0o644, l.blobs[sum]})
	}
	return append(list,
		file{v1.ImageIndexFile, 0o644, index},
		file{"manifest.json", 0o644, docker},
		file{v1.ImageLayoutFile, 0o644, version},
	), nil
}
