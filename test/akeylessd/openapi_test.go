package akeylessd_test

import (
	"os/exec"
	"testing"
)

// TestAgainstPublishedDescription runs the nested module openapi: everything that the provider does
// through the wire, with all requests and answers checked against Akeyless' OpenAPI description. It
// is a module of its own, so the go command does not find it from here.
func TestAgainstPublishedDescription(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the validator of a module of its own")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "./...")
	cmd.Dir = "openapi"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}
