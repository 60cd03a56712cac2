package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// The disk fills up and is cleared: every line is whole again after that.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("audit", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skip("needs the right to mount a tmpfs: ", err)
	}
	t.Cleanup(func() { testkit.Must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	path := filepath.Join(dir, "audit.log")
	m := &meter{}
	var log bytes.Buffer
	l := testkit.Value(New(Config{Path: path, Level: Changes, Node: "node-1", Meter: m, Logger: slog.New(slog.NewTextHandler(&log, nil))}))(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	count := 0
	for failed := 0; failed == 0; _, _, failed = m.counts() {
		l.Observe(web(volume.Published, nil))
		count++
		testkit.Eventually(t, "the line is written or the disk is full", func() bool {
			written, _, failed := m.counts()
			return written == count || failed > 0
		})
	}
	testkit.Must(t, os.Rename(path, path+".1"))
	testkit.Must(t, os.Truncate(path+".1", 4096)) // makes room: one page of two
	l.Observe(web(volume.Unpublished, nil))
	testkit.Eventually(t, "there are lines again", func() bool {
		text, _ := os.ReadFile(path)
		return bytes.Contains(text, []byte(`"unpublish"`))
	})
	cancel()
	testkit.Must(t, <-done)
	text := testkit.Value(os.ReadFile(path))(t)
	for one := range bytes.Lines(text) {
		if !json.Valid(one) {
			t.Errorf("not a whole line: %q", one)
		}
	}
	if m.lost != 0 || m.written != count+1 {
		t.Errorf("%d lines, %d written, %d lost", count+1, m.written, m.lost)
	}
}
