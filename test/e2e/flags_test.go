//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// mountFlags reports which of a volume's mount options a container has. The runtime binds the
// node's mount into the container, and may drop the options of a mount; those of the file system
// stay, and kubelet itself requests read-only for the container (docs/security.md).
func mountFlags(c *tenant) {
	c.put("db", "one")
	mode := 0o755
	script := c.object("script", "script")
	script.FilePermission = &mode
	testkit.Must(c.t, c.vault.PutKV2(c.t.Context(), kvMount, c.ns+"/script", map[string]any{"password": "#!/bin/sh\necho ran\n"}))
	c.class("db", nil, c.object("password", "db"), script)
	pod := c.run(newPod("flags", `grep ' /secrets ' /proc/self/mountinfo
touch /secrets/new 2>/dev/null && echo written
chmod u+s /secrets/script 2>/dev/null && echo setuid
/secrets/script 2>/dev/null || echo refused
exec sleep 100000`, mounts("db")))

	table, err := os.ReadFile("/proc/self/mountinfo")
	testkit.Must(c.t, err)
	node, err := mountOf(string(table), c.volume(pod, volumeName))
	testkit.Must(c.t, err)
	var lines []string
	c.until("the container to have run its script", func(ctx context.Context) error {
		text, err := c.log(ctx, "flags")
		lines = strings.Split(strings.TrimSpace(text), "\n")
		if err == nil && !slices.Contains(lines, "ran") && !slices.Contains(lines, "refused") {
			err = fmt.Errorf("it printed %q", text)
		}
		return err
	})
	container, err := mountOf(lines[0], mountPath)
	testkit.Must(c.t, err)
	c.t.Logf("on the node:      %s", node)
	c.t.Logf("in the container: %s", container)
	c.t.Logf("a script of mode 0755 in the volume: %s", lines[len(lines)-1])

	node.want(c, "on the node", "nosuid", "nodev", "noexec")
	container.want(c, "in the container", "ro")
	if container.system != node.system || !strings.Contains(container.system, "noswap") || !strings.Contains(container.system, "size=") {
		c.t.Errorf("the file system has %s in the container and %s on the node", container.system, node.system)
	}
	if len(lines) != 2 {
		c.t.Errorf("the container could write: it printed %q", lines)
	}
	if ran := lines[len(lines)-1] == "ran"; ran == slices.Contains(container.mount, "noexec") {
		c.t.Errorf("a script ran: %t, with the mount options %q", ran, container.mount)
	}
}

// mountOptions are those of a mount and of its file system.
type mountOptions struct {
	mount  []string
	system string
}

func (m mountOptions) String() string { return strings.Join(m.mount, ",") + " - " + m.system }

func (m mountOptions) want(c *tenant, where string, options ...string) {
	c.t.Helper()
	for _, option := range options {
		if !slices.Contains(m.mount, option) {
			c.t.Errorf("%s the mount lacks %s: %s", where, option, m)
		}
	}
}

// mountOf finds a mount in the text of a mountinfo file.
func mountOf(table, target string) (found mountOptions, err error) {
	err = fmt.Errorf("nothing is mounted at %s in %q", target, table)
	for line := range strings.Lines(table) {
		mount, system, ok := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !ok || len(fields) < 6 || fields[4] != target {
			continue
		}
		system = strings.TrimSpace(system)
		found, err = mountOptions{strings.Split(fields[5], ","), system[strings.LastIndexByte(system, ' ')+1:]}, nil
	}
	return found, err
}
