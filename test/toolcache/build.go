package toolcache

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// errorLines is how many lines of the go command's output are kept for the error.
const errorLines = 30

// build is one program to be built.
type build struct {
	moduleDir, pkg, name string
	ldflags              []string
	tags                 string
	progress             io.Writer
}

// key depends on the program's whole input: the toolchain, the target, the flags, go.mod and go.sum
// (so every dependency) and the module's own code.
func (b build) key(ctx context.Context) (string, error) {
	hash := sha256.New()
	env := b.goCommand(ctx, "env", "GOVERSION", "GOOS", "GOARCH", "GOAMD64", "GOARM64")
	var stderr bytes.Buffer
	env.Stderr = &stderr
	out, err := env.Output()
	if err != nil {
		return "", fmt.Errorf("running go env: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	fmt.Fprintf(hash, "%q %q %q\n", out, b.pkg, b.ldflags)
	if b.tags != "" {
		fmt.Fprintf(hash, "tags %q\n", b.tags)
	}
	if err := b.hashSources(hash); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func (b build) hashSources(hash io.Writer) error {
	return filepath.WalkDir(b.moduleDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path != b.moduleDir && isModule(path) {
				return fs.SkipDir
			}
			return nil
		}
		if !isSource(entry.Name()) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(b.moduleDir, path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(hash, "%q %x\n", rel, sha256.Sum256(data))
		return err
	})
}

func isSource(name string) bool {
	if name == "go.mod" || name == "go.sum" {
		return true
	}
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func (b build) goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.moduleDir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run builds beside path and renames, so that path is never half a program.
func (b build) run(ctx context.Context, path string) (err error) {
	scratch, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return fmt.Errorf("making a scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()

	fmt.Fprintf(b.progress, "toolcache: building %s from %s; the first time, this takes some minutes\n", b.name, b.moduleDir)
	start := time.Now()
	out := filepath.Join(scratch, b.name)
	if err := b.compile(ctx, out); err != nil {
		return err
	}
	if err := os.Rename(out, path); err != nil {
		return fmt.Errorf("moving into the cache: %w", err)
	}
	fmt.Fprintf(b.progress, "toolcache: built %s in %s\n", b.name, time.Since(start).Round(time.Second))
	return nil
}

func (b build) compile(ctx context.Context, out string) error {
	cmd := b.goCommand(ctx, "build", "-v", "-trimpath", "-buildvcs=false", "-tags="+b.tags,
		"-ldflags="+strings.Join(b.ldflags, " "), "-o", out, b.pkg)
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the go command: %w", err)
	}
	var seen output
	var reporters sync.WaitGroup
	reporters.Go(func() { seen.read(reader) })
	stop := beat(func(so time.Duration) {
		modules, packages := seen.counts()
		fmt.Fprintf(b.progress, "toolcache: %s: %s, %d modules downloaded, %d packages compiled\n", b.name, so, modules, packages)
	})
	err := cmd.Wait()
	writer.Close()
	stop()
	reporters.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("running go build: %w\n%s", err, seen.tail())
	}
	return nil
}

// output summarizes the output of "go build -v": a line for each module downloaded and each package
// compiled, and the errors.
type output struct {
	mu                sync.Mutex
	modules, packages int
	last              []string
}

func (o *output) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		o.add(lines.Text())
	}
	// A line too long to scan must not block the writer.
	_, _ = io.Copy(io.Discard, r)
}

func (o *output) add(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case strings.HasPrefix(line, "go: downloading "):
		o.modules++
		return
	case !strings.ContainsAny(line, " \t"):
		o.packages++
		return
	}
	o.last = append(o.last, line)
	if len(o.last) > errorLines {
		o.last = o.last[1:]
	}
}

func (o *output) counts() (modules, packages int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.modules, o.packages
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.last, "\n")
}
