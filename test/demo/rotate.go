package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	// rotateTimeout is generous: the class's interval is one second.
	rotateTimeout = 20 * time.Second
	readEvery     = time.Millisecond
)

func rotate(ctx context.Context, s *screen, w *world) error {
	root, err := os.OpenRoot(w.kubelet.Target(w.web))
	if err != nil {
		return fmt.Errorf("opening the volume: %w", err)
	}
	defer func() { _ = root.Close() }()
	mark, err := w.vault.Mark()
	if err != nil {
		return err
	}
	s.say("A reader opens the volume's directory once, and reads db/password every millisecond.")
	reading, stop := context.WithTimeoutCause(ctx, rotateTimeout, fmt.Errorf("the file did not change within %s", rotateTimeout))
	defer stop()
	result := make(chan readerResult, 1)
	go func() { result <- readUntilNew(reading, root) }()
	if err := w.setPassword(ctx, newPassword); err != nil {
		return fmt.Errorf("writing to Vault: %w", err)
	}
	wrote := time.Now()
	s.block(fmt.Sprintf("%s  Vault holds the new password", clock(wrote)))
	r := <-result
	if r.err != nil {
		return r.err
	}
	s.block(fmt.Sprintf("%s  the file holds it: %s", clock(r.changed), newPassword))
	return w.checkRotation(ctx, s, root, mark, wrote, r)
}

func (w *world) checkRotation(ctx context.Context, s *screen, root *os.Root, mark vaulttest.Mark, wrote time.Time, r readerResult) error {
	opened, err := root.Stat(".")
	if err != nil {
		return err
	}
	now, err := os.Stat(w.kubelet.Target(w.web))
	if err != nil {
		return err
	}
	if !os.SameFile(opened, now) {
		return errors.New("the volume's directory is another one than before")
	}
	if err := w.checkFiles(newPassword); err != nil {
		return err
	}
	entries, err := w.answered(ctx, mark)
	if err != nil {
		return err
	}
	n := countKinds(entries)
	s.proven("changed in place %s after the write (refreshInterval: 1s), in the same directory", short(max(r.changed.Sub(wrote), 0)))
	s.proven("%d reads meanwhile found the old password or the new one, and never anything else", r.reads)
	s.proven("requests to Vault for it: version checks %d, reads %d, logins %d", n.checks, n.reads, n.logins)
	return nil
}

// kinds are numbers of requests.
type kinds struct{ logins, checks, reads int }

// countKinds tells the cheap question for a secret's version from its reading.
func countKinds(entries []vaulttest.AuditEntry) (n kinds) {
	for _, e := range entries {
		switch {
		case e.Path == loginPath:
			n.logins++
		case strings.HasPrefix(e.Path, "secret/metadata/"):
			n.checks++
		default:
			n.reads++
		}
	}
	return n
}

// readerResult is what a reader of the volume saw.
type readerResult struct {
	reads   int
	changed time.Time
	err     error
}

// readUntilNew reads as an application does that keeps its directory open.
func readUntilNew(ctx context.Context, root *os.Root) (r readerResult) {
	ticker := time.NewTicker(readEvery)
	defer ticker.Stop()
	for {
		contents, err := fs.ReadFile(root.FS(), filepath.Join("db", "password"))
		r.reads++
		switch {
		case err != nil:
			r.err = fmt.Errorf("reading the file during the rotation: %w", err)
			return r
		case string(contents) == newPassword:
			r.changed = time.Now()
			return r
		case string(contents) != oldPassword:
			r.err = fmt.Errorf("during the rotation the file held %q", contents)
			return r
		}
		select {
		case <-ctx.Done():
			r.err = context.Cause(ctx)
			return r
		case <-ticker.C:
		}
	}
}
