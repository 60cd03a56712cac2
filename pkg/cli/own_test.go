package cli_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// TestOwnManifests: the project's own manifests have no findings, also
// together.
func TestOwnManifests(t *testing.T) {
	var out bytes.Buffer
	args := []string{"lint", "--fail-on", "warning", "../../deploy", "../../examples"}
	if code := cli.Run(args, output.Streams{Out: &out, Err: &out, Getenv: os.Getenv}); code != 0 {
		t.Errorf("exit code %d\n%s", code, &out)
	}
}
