package tmpfs

import (
	"os"
	"strings"
	"testing"
)

// The whole suite passes in a user namespace, where the demo runs without root.
func TestUserNamespace(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		t.Skip("already in one")
	}
	if testing.Short() {
		t.Skip("runs the suite a second time")
	}
	cmd := namespaceCommand("-test.count=1", "-test.v")
	output, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if !strings.Contains(string(output), "--- PASS: TestMountOptions") {
		t.Errorf("no test has run:\n%s", output)
	}
}
