package class_test

import (
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

func TestDidYouMean(t *testing.T) {
	known := []string{"vaultAddress", "vaultNamespace", "roleName", strings.Repeat("n", 65)}
	for name, want := range map[string]string{
		"vaultAdress": "vaultAddress", "RoleName": "roleName", "role-name": "roleName", "vaultNameSpaces": "vaultNamespace",
		"role": "", "roleNaming": "", "x": "", strings.Repeat("n", 64): "",
	} {
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if got := class.DidYouMean(name, known); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
