package node

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestImageIsReproducible(t *testing.T) {
	image := Image{
		Ref: "mayfly.test/x:1", Cmd: []string{"/x"}, User: "5",
		Files: []ImageFile{
			{Path: "dir/", Mode: 0o755},
			{Path: "dir/x", Mode: 0o755, Data: []byte("program")},
			{Path: "link", Mode: 0o777, Link: "dir/x"},
		},
	}
	var first, second bytes.Buffer
	testkit.Must(t, errors.Join(image.WriteTar(&first), image.WriteTar(&second)))
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gives different bytes")
	}
	outer := untar(t, &first)
	var config struct {
		Config struct {
			Cmd  []string
			User string
		}
	}
	testkit.Must(t, json.Unmarshal(outer["config.json"], &config))
	if !slices.Equal(config.Config.Cmd, image.Cmd) || config.Config.User != "5" {
		t.Errorf("configuration: %s", outer["config.json"])
	}
	layer := untar(t, bytes.NewReader(outer["layer.tar"]))
	if string(layer["dir/x"]) != "program" || len(layer) != 3 {
		t.Errorf("layer: %q", layer)
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		testkit.Must(t, err)
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}
