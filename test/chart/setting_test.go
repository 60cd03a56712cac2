package chart

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestSettingsAreNamed: the names of flags and values in errors are those of the driver and the
// chart.
func TestSettingsAreNamed(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), driver(t), "--help").Output()
	testkit.Must(t, err)
	text := func(path string) string {
		data, err := os.ReadFile(path)
		testkit.Must(t, err)
		return string(data)
	}
	template, page := text("../../charts/mayfly/templates/_driver.tpl"), text("../../docs/values.md")
	for flag, value := range setting.All() {
		if !strings.Contains(string(help), "  "+flag) {
			t.Errorf("the driver has no flag %s", flag)
		}
		if !strings.Contains(page, "| `"+value) {
			t.Errorf("the chart has no value %s", value)
		}
		if !strings.Contains(template, flag) {
			t.Errorf("the chart renders no %s", flag)
		}
	}
}
