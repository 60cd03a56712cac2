package chart

import (
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// valueSets are the value files in testdata, each with the Kubernetes version
// that it is rendered for.
var valueSets = map[string]string{
	"default":        newest,
	"old-kubernetes": "1.34.9",
	"everything":     newest,
	"side-by-side":   newest,
	"least":          newest,
}

func renderSet(t *testing.T, name string, args ...string) string {
	t.Helper()
	return render(t, valueSets[name], append([]string{"--values", filepath.Join("testdata", name+".values.yaml")}, args...)...)
}

func TestGolden(t *testing.T) {
	for name := range valueSets {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Join("testdata", name+".golden.yaml"), renderSet(t, name))
		})
	}
}

func TestEveryValueFileIsTested(t *testing.T) {
	files, err := filepath.Glob("testdata/*.values.yaml")
	testkit.Must(t, err)
	if len(files) != len(valueSets) {
		t.Errorf("%d value files in testdata, %d tested", len(files), len(valueSets))
	}
}
