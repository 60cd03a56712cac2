package wire

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/test/compat"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/pages"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const tokensAttribute = "csi.storage.k8s.io/serviceAccount.tokens"

// TestPluginClassesOfPages mounts every class of the pages that is a provider plugin's, with a
// double of the plugin: the driver passes on what the page says and no more, with the service
// account token whose audience it names. The end-to-end test mounts the classes of built-in
// providers.
func TestPluginClassesOfPages(t *testing.T) {
	blocks, err := pages.Read("../..")
	testkit.Must(t, err)
	f := newCompatRig(t)
	tested := 0
	for _, b := range blocks {
		if b.Kind != pages.YAML || b.NotRun != "" || !strings.Contains(b.Text, "kind: SecretProviderClass") {
			continue
		}
		classes, _, err := class.ParseManifest([]byte(b.Text))
		testkit.Must(t, err)
		for _, c := range classes {
			if !slices.Contains([]string{"vault", "openbao", "akeyless"}, c.Spec.Provider) {
				tested++
				t.Run(c.Spec.Provider, func(t *testing.T) { f.mountPluginClass(t, b, c.Name, c.Spec.Provider, c.Spec.Parameters) })
			}
		}
	}
	if tested < 5 {
		t.Errorf("the pages have %d classes of plugins", tested)
	}
}

func (f *compatRig) mountPluginClass(t *testing.T, b pages.Block, name, provider string, parameters map[string]string) {
	plugin := startCompatPlugin(t, f.plugins, provider)
	pod := f.rig.pod("pages-"+provider, "web", name)
	ref := issuer.PodRef{Namespace: "shop", Pod: pod.Name, PodUID: pod.UID, ServiceAccount: "web"}
	pod.Tokens = f.issuer.CSITokens(ref, "vault", "akeyless", "sts.amazonaws.com", "pods.eks.amazonaws.com", "api://AzureADTokenExchange", "shop-prod.svc.id.goog", "conjur", "infisical")
	plugin.set(pod.Name, compat.Plugin{
		Files:    []compat.File{{Path: "a", Contents: "A"}, {Path: "db.json", Contents: `{"username":"u","password":"p"}`}}, // one is for templates of the pages
		Versions: []compat.Version{{ID: "a", Version: "1"}},
	})
	f.replace(filepath.Join(f.classDir, "page.yaml"), b.Text)
	testkit.Must(t, f.Publish(t.Context(), pod))
	if got := f.file(pod, "a"); got != "A" {
		t.Errorf("the file holds %q", got)
	}
	testkit.Must(t, f.Unpublish(t.Context(), pod))

	attributes := plugin.attributes(pod.Name)
	for key, want := range parameters {
		if got, passed := attributes[key]; passed == slices.Contains(class.OwnKeys(), key) || passed && got != want {
			t.Errorf("the plugin was sent %s: %q, the class has %q", key, got, want)
		}
	}
	var tokens map[string]any
	testkit.Must(t, json.Unmarshal([]byte(attributes[tokensAttribute]), &tokens))
	page, err := os.ReadFile(filepath.Join("../..", b.Page))
	testkit.Must(t, err)
	if len(tokens) == 0 {
		t.Error("the plugin was sent no service account token")
	}
	for _, audience := range slices.Sorted(maps.Keys(tokens)) {
		if _, section, _ := strings.Cut(string(page), "\n## "+b.Section+"\n"); !strings.Contains(strings.SplitN(section, "\n## ", 2)[0], "`"+audience+"`") {
			t.Errorf("the plugin was sent a token for %s, of which the section %q says nothing", audience, b.Section)
		}
	}
}
