package driver

import (
	"context"
	"fmt"
	"io"
	"os/exec"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// Prepare builds what a program needs that runs a Vault and the driver: a Vault, unless one is
// installed, which the first time takes minutes, and mayfly-node in dir, unless a binary is given.
func Prepare(ctx context.Context, out io.Writer, dir, binary string) error {
	if _, err := exec.LookPath("vault"); err != nil {
		if _, err := toolcache.Get(ctx, out, "vaultd"); err != nil {
			return err
		}
	}
	if binary != "" {
		return nil
	}
	fmt.Fprintln(out, "building mayfly-node")
	_, err := toolcache.Program(ctx, out, dir, "./cmd/mayfly-node")
	return err
}
