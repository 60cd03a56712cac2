//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// tryCommand runs kubectl mayfly try on a class that works, and on one that does not: the commands of
// its findings repair that class, and its pod then runs.
func tryCommand(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	if found := c.try("db"); len(found) > 0 {
		c.t.Fatalf("try finds %+v in a class that works", found)
	}
	c.start(newPod("works", printOnce, mounts("db")))
	c.awaitPod("works", isRunning)
	c.awaitLog("works", marker+"one\n")

	role := c.ns + "-repaired"
	c.class("repaired", map[string]string{"roleName": role}, c.object("password", "db"))
	c.start(newPod("repaired", printOnce, mounts("repaired")))
	c.awaitEvent("repaired", failedMount, "invalid role name")
	c.runRemedy("repaired", finding.CodeTryLogin)
	// The role exists by now, and this removes its policy.
	testkit.Must(c.t, c.vault.Role(c.t.Context(), authMount, role, map[string]any{"token_policies": "default"}))
	c.runRemedy("repaired", finding.CodeTryNoRight)
	if found := c.try("repaired"); len(found) > 0 {
		c.t.Fatalf("try still finds %+v after its commands ran", found)
	}
	c.awaitPod("repaired", isRunning)
	c.awaitLog("repaired", marker+"one\n")
}

// try returns the command's findings about a class for the tenant's service account.
func (c *tenant) try(class string) []finding.Finding {
	c.t.Helper()
	var out, errs bytes.Buffer
	code := cli.Run([]string{"try", class, "-n", c.ns, "--serviceaccount", account, "--kubeconfig", c.node.Kubeconfig(), "-o", "json"},
		output.Streams{Out: &out, Err: &errs, Getenv: os.Getenv, Version: "e2e"})
	var report struct{ Findings []finding.Finding }
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || code == 2 {
		c.t.Fatalf("exit code %d, %v: %s", code, err, &errs)
	}
	if strings.Contains(out.String(), marker) {
		c.t.Errorf("try prints a secret: %s", &out)
	}
	return report.Findings
}

// runRemedy checks that try has one finding for a class, and runs the commands of its remedy.
func (c *tenant) runRemedy(class, code string) {
	c.t.Helper()
	found := c.try(class)
	if len(found) != 1 || found[0].Code != code {
		c.t.Fatalf("found %+v, want one %s", found, code)
	}
	program := testkit.Value(toolcache.Get(c.t.Context(), c.out, "vault"))(c.t)
	sh := exec.CommandContext(c.t.Context(), "sh", "-euc", found[0].Remedy)
	sh.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "VAULT_ADDR="+c.vault.Address, "VAULT_TOKEN="+c.vault.RootToken)
	if said, err := sh.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s\n%s", err, said, found[0].Remedy)
	}
}
