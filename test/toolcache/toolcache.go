// Package toolcache builds the large programs of tests, such as a real Vault, from the nested Go
// modules under test/, once, and stores them outside the source tree under
// ${MAYFLY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mayfly}. The cache key depends on the module's
// sources and the toolchain, so a change of either builds again and an unchanged checkout never
// does.
package toolcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockRetry is how often a builder that waits for another one checks again.
const lockRetry = 100 * time.Millisecond

// Build returns the path of the program pkg ("." or an import path) of the module at moduleDir,
// under the given name. It builds it if the cache does not have it. Builders of the same program
// wait for each other, across processes. progress receives a line if that takes time; it may be
// nil.
func Build(ctx context.Context, progress io.Writer, moduleDir, pkg, name string, ldflags ...string) (string, error) {
	return build{moduleDir: moduleDir, pkg: pkg, name: name, ldflags: ldflags, progress: progress}.cached(ctx)
}

func (b build) cached(ctx context.Context) (string, error) {
	progress, name := b.progress, b.name
	if progress == nil {
		progress = io.Discard
		b.progress = progress
	}
	key, err := b.key(ctx)
	if err != nil {
		return "", fmt.Errorf("hashing the sources of %s: %w", name, err)
	}
	root, err := cacheRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "tools", name+"-"+key)
	path := filepath.Join(dir, name)
	if isProgram(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache of %s: %w", name, err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"), func() {
		fmt.Fprintf(progress, "toolcache: another process is building %s; waiting for it\n", name)
	})
	if err != nil {
		return "", fmt.Errorf("locking the cache of %s: %w", name, err)
	}
	defer unlock()
	if isProgram(path) { // whoever held the lock has built it
		return path, nil
	}
	if err := b.run(ctx, path); err != nil {
		return "", fmt.Errorf("building %s in %s: %w", name, b.moduleDir, err)
	}
	return path, nil
}

func cacheRoot() (string, error) {
	if dir := os.Getenv("MAYFLY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache directory (MAYFLY_CACHE can name one): %w", err)
	}
	return filepath.Join(dir, "mayfly"), nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lock takes the exclusive lock on a file, and calls busy once if it must wait. The kernel releases
// the lock when the process ends for any reason.
func lock(ctx context.Context, path string, busy func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for told := false; ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, err
		}
		if !told {
			told = true
			busy()
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		case <-retry.C:
		}
	}
}
