package statedir_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/volume/statedir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestSetAsideIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		file := filepath.Join(dir, fmt.Sprintf("%064d.json.corrupt", i))
		testkit.Must(t, os.WriteFile(file, []byte("old"), 0o600))
		at := time.Now().Add(-time.Duration(i) * time.Minute)
		if i < 10 {
			at = time.Now().Add(-8 * 24 * time.Hour)
		}
		testkit.Must(t, os.Chtimes(file, at, at))
	}
	s := testkit.Value(statedir.New(dir, slog.New(slog.DiscardHandler)))(t)
	loaded := testkit.Value(s.Load())(t)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 256 || len(loaded.SetAside) != 256 {
		t.Errorf("%d files, %d of them told of, want 256: %v", len(files), len(loaded.SetAside), err)
	}
	testkit.Equal(t, "the first that is left", files[0].Name(), fmt.Sprintf("%064d.json.corrupt", 10))
}

// A file that no driver wrote is not taken into memory.
func TestLongRecordsAreSetAside(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, strings.Repeat("b", 64)+".json")
	testkit.Must(t, os.WriteFile(file, nil, 0o600))
	testkit.Must(t, os.Truncate(file, 1<<40))
	s := testkit.Value(statedir.New(dir, slog.New(slog.DiscardHandler)))(t)
	loaded, err := s.Load()
	if err != nil || len(loaded.SetAside) != 1 || !strings.Contains(loaded.SetAside[0].Err.Error(), "longer") {
		t.Errorf("%+v, %v", loaded, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("{\"version\":1,\"sha256\":\"\",\"record\":2}\n{}"))
	f.Add([]byte(`{`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		var log bytes.Buffer
		s := testkit.Value(statedir.New(dir, slog.New(slog.NewTextHandler(&log, nil))))(t)
		testkit.Must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("a", 64)+".json"), data, 0o600))
		loaded := testkit.Value(s.Load())(t)
		if len(loaded.Records) > 0 {
			t.Errorf("a file of another name was taken: %s", data)
		}
		if json.Valid(data) && len(data) > 40 && strings.Contains(log.String(), string(data)) {
			t.Error("the log quotes the record")
		}
	})
}
