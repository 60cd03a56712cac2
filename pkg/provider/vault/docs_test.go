package vault

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// docs/vault.md lists the parameters and fields that exist, and no others.
func TestDocumentedParameters(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/vault.md")
	testkit.Must(t, err)
	want := objectFields()
	want = append(want, plainKeys()...)
	for _, key := range prefixedKeys() {
		want = append(want, "vault"+key)
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllSubmatch(doc, -1) {
		got = append(got, string(m[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("docs/vault.md lists\n%v\nthe code has\n%v", got, want)
	}
}

// Each flavour is told the names that its classes use.
func TestSettingNames(t *testing.T) {
	for flavour, want := range map[string]string{NameVault: "vaultCACertPath", NameOpenBao: "baoCACertPath"} {
		if got := settingNames(flavour).CACertFile; got != want {
			t.Errorf("%s: %s, want %s", flavour, got, want)
		}
	}
}
