package driver

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// heartbeat is how often a long build shows a sign of life.
const heartbeat = 10 * time.Second

// Build builds mayfly-node into dir in the same way as releases, and returns its path. Go's own
// build cache makes all but the first time short.
func Build(ctx context.Context, progress io.Writer, dir string) (string, error) {
	return BuildCommand(ctx, progress, dir, "./cmd/mayfly-node")
}

// BuildCommand builds a program of the module, with its version where it has
// one, into a file of the program's name.
func BuildCommand(ctx context.Context, progress io.Writer, dir, pkg string) (string, error) {
	root, err := toolcache.ModuleRoot()
	if err != nil {
		return "", err
	}
	name := filepath.Base(pkg)
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w -X main.version="+Version(ctx, root), "-o", path, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.WaitDelay = time.Second
	done := make(chan struct{})
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		beat(progress, name, done)
	}()
	out, err := cmd.CombinedOutput()
	close(done)
	<-beating
	if cause := context.Cause(ctx); cause != nil {
		return "", cause
	}
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

func beat(w io.Writer, name string, done <-chan struct{}) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	began := time.Now()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			fmt.Fprintf(w, "still building %s, %s so far; the first time, this takes a minute or two\n", name, time.Since(began).Round(time.Second))
		}
	}
}

// Version is git's description of the source tree, "dev" if there is none.
func Version(ctx context.Context, root string) string {
	cmd := exec.CommandContext(ctx, "git", "--no-optional-locks", "-C", root, "describe", "--tags", "--always", "--dirty")
	out, err := cmd.Output()
	if err != nil || len(out) < 2 {
		return "dev"
	}
	return string(out[:len(out)-1])
}

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
	_, err := Build(ctx, out, dir)
	return err
}
