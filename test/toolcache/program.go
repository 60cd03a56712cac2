package toolcache

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Program builds a program of the main module, such as "./cmd/mayfly-node", as releases are built, into a
// file of dir with the program's name, and returns its path. Go's own build cache makes all but the
// first time short.
func Program(ctx context.Context, progress io.Writer, dir, pkg string) (string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	name := filepath.Base(pkg)
	path := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w -X main.version="+version(ctx, root), "-o", path, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.WaitDelay = time.Second
	stop := beat(func(so time.Duration) {
		fmt.Fprintf(progress, "still building %s, %s so far; the first time, this takes a minute or two\n", name, so)
	})
	out, err := cmd.CombinedOutput()
	stop()
	if cause := context.Cause(ctx); cause != nil {
		return "", cause
	}
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// heartbeat is how often a long build shows a sign of life.
const heartbeat = 10 * time.Second

// beat shows a sign of life again and again until stop.
func beat(show func(so time.Duration)) (stop func()) {
	began, done, ended := time.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				show(time.Since(began).Round(time.Second))
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// version is git's description of the source tree, "dev" if there is none.
func version(ctx context.Context, root string) string {
	cmd := exec.CommandContext(ctx, "git", "--no-optional-locks", "-C", root, "describe", "--tags", "--always", "--dirty")
	out, err := cmd.Output()
	if err != nil || len(out) < 2 {
		return "dev"
	}
	return string(out[:len(out)-1])
}
