package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// TestSupportNamesWhatIsTested: the pages name the versions that the tests use.
func TestSupportNamesWhatIsTested(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, name))
		testkit.Must(t, err)
		return string(data)
	}
	vault := regexp.MustCompile(`(?m)^require github\.com/hashicorp/vault v(\S+)$`).FindStringSubmatch(read("test/vaultd/go.mod"))
	if vault == nil {
		t.Fatal("test/vaultd/go.mod requires no Vault")
	}
	if !strings.Contains(read("test/vaultcli/go.mod"), vault[0]) {
		t.Errorf("test/vaultcli is of another version of Vault than test/vaultd, %s", vault[1])
	}
	kubernetes, helm := strings.TrimPrefix(toolcache.KubernetesVersion, "v"), strings.TrimPrefix(toolcache.HelmVersion, "v")
	for page, versions := range map[string][]string{
		"docs/support.md": {kubernetes, vault[1], helm},
		"README.md":       {kubernetes, vault[1]},
	} {
		text := read(page)
		testkit.Has(t, text, versions...)
	}
}
