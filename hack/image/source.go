package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// tag matches what a registry accepts as a tag.
var tag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// describe determines the version and date of the build: from the flags and the environment, else
// from git. A source without git, such as a release's archive, is version dev of 1970.
func (o *options) describe(ctx context.Context, getenv func(string) string) error {
	_, err := os.Stat(filepath.Join(o.source, ".git"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for a git repository: %w", err)
	}
	hasGit := err == nil
	if o.version == "" {
		o.version = "dev"
		if hasGit {
			if o.version, err = git(ctx, o.source, "describe", "--tags", "--always", "--dirty"); err != nil {
				return err
			}
			o.version = strings.TrimPrefix(o.version, "v")
		}
	}
	if !tag.MatchString(o.version) {
		return fmt.Errorf("version %q cannot be the tag of an image", o.version)
	}
	if hasGit {
		if o.revision, err = git(ctx, o.source, "rev-parse", "HEAD"); err != nil {
			return err
		}
	}
	seconds := getenv("SOURCE_DATE_EPOCH")
	if seconds == "" && hasGit {
		if seconds, err = git(ctx, o.source, "log", "-1", "--format=%ct"); err != nil {
			return err
		}
	}
	if seconds == "" {
		return nil
	}
	if o.epoch, err = strconv.ParseInt(seconds, 10, 64); err != nil || o.epoch < 0 {
		return fmt.Errorf("SOURCE_DATE_EPOCH %q is not a number of seconds since 1970", seconds)
	}
	return nil
}

func (o *options) created() time.Time { return time.Unix(o.epoch, 0).UTC() }

func git(ctx context.Context, dir string, args ...string) (string, error) {
	return output(ctx, exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...))
}

// output runs a command and returns its output.
func output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", fmt.Errorf("running %s: %w\n%s", strings.Join(cmd.Args, " "), err, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// platform is an operating system and architecture in Go's names, which OCI uses too.
type platform struct{ os, arch string }

func parsePlatform(text string) (platform, error) {
	system, arch, ok := strings.Cut(strings.TrimSpace(text), "/")
	if !ok || system != "linux" || arch == "" || strings.Contains(arch, "/") {
		return platform{}, fmt.Errorf("%q is not a platform such as linux/amd64", text)
	}
	return platform{system, arch}, nil
}

func (p platform) String() string { return p.os + "/" + p.arch }

// compile builds the program: static, without this machine's paths and without git's state, which
// would make two checkouts of one source differ.
func (o *options) compile(ctx context.Context, p platform) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mayfly-image-")
	if err != nil {
		return nil, fmt.Errorf("making a scratch directory: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, o.program)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-buildvcs=false",
		"-ldflags=-s -w -X main.version="+o.version, "-o", path, "./cmd/"+o.program)
	cmd.Dir = o.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=",
		"GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0")
	if _, err := output(ctx, cmd); err != nil {
		return nil, fmt.Errorf("building %s for %s: %w", o.program, p, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the binary for %s: %w", p, err)
	}
	return data, nil
}
