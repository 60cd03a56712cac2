package examples

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestManifests: every object has only fields that exist, and every class
// works without a warning.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "examples", "*", "*.yaml"))
	testkit.Must(t, err)
	validator, err := vault.New(vault.Config{Name: vault.NameVault, DefaultAddress: "https://vault.example:8200"})
	testkit.Must(t, err)
	classes, others := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		testkit.Must(t, err)
		for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			testkit.Must(t, err)
			if !bytes.Contains(document, []byte("kind: SecretProviderClass\n")) {
				strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
				if _, _, err := strict.Decode(document, nil, nil); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				others++
				continue
			}
			classes++
			objects, warnings, err := class.ParseManifest(document)
			if err != nil || len(warnings) > 0 || len(objects) != 1 {
				t.Fatalf("%s: %d classes, %v, %q", file, len(objects), err, warnings)
			}
			c, warnings, err := class.Parse(objects[0])
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%s: %v, %q", file, err, warnings)
			}
			if warnings, err := validator.Validate(c); err != nil || len(warnings) > 0 {
				t.Errorf("%s: %v, %q", file, err, warnings)
			}
		}
	}
	if classes < 4 || others < 8 {
		t.Errorf("%d classes and %d other objects in %v: the test does not see them", classes, others, files)
	}
}
