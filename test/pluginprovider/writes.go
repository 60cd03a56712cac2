package pluginprovider

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// writesItself puts the files below the target path, through a temporary file
// and a rename each, and returns none: what providers did before they could
// return files, and the AWS provider does unless it is told otherwise.
func writesItself(_ *Server, _ context.Context, m *v1alpha1.MountRequest, _ map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	for _, f := range good.GetFiles() {
		if err := writeFile(filepath.Join(m.GetTargetPath(), filepath.Base(f.GetPath())), f); err != nil {
			return nil, err
		}
	}
	return &v1alpha1.MountResponse{ObjectVersion: good.GetObjectVersion()}, nil
}

// readsBack takes the contents of objects whose version is still the current
// one from the files in the volume, as the AWS provider does.
func readsBack(_ *Server, _ context.Context, m *v1alpha1.MountRequest, _ map[string]string, good *v1alpha1.MountResponse) (*v1alpha1.MountResponse, error) {
	current := map[string]string{}
	for _, v := range m.GetCurrentObjectVersion() {
		current[v.GetId()] = v.GetVersion()
	}
	for i, v := range good.GetObjectVersion() {
		if version, ok := current[v.GetId()]; ok && version == v.GetVersion() {
			value, err := os.ReadFile(filepath.Join(m.GetTargetPath(), good.GetFiles()[i].GetPath()))
			if err != nil { // which it keeps to itself, and puts the blame on the store
				return nil, fmt.Errorf("Failed to fetch secret from all regions. Verify secret exists and required permissions are granted for: %s", v.GetId()) //nolint:staticcheck // its words
			}
			good.GetFiles()[i].Contents = value
		}
	}
	return good, nil
}

func writeFile(path string, f *v1alpha1.File) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if _, err := tmp.Write(f.GetContents()); err != nil {
		_ = tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
