package atomicdir

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// generation is payload number n; its files all name it, and come and go.
func generation(n int) []File {
	body := fmt.Sprintf("%d %s", n, strings.Repeat("x", n%5*1000))
	files := []File{file("stable", body), file("d/stable", body), {Path: "mode", Mode: 0o600 + os.FileMode(n%2*0o40), Contents: []byte(body)}}
	for i := range n % 4 {
		files = append(files, file(fmt.Sprintf("f%d", i), body), file(fmt.Sprintf("d/f%d/x", i), body))
	}
	return files
}

// Readers are in the middle of reading whenever a Write runs, and each finishes
// before the Write after that one begins. None ever meets a mix or a gap,
// whether it reads through an open payload directory or through the links.
func TestReadersDuringWrites(t *testing.T) {
	const writes, readers = 400, 3
	path := newVolume(t)
	d := open(t, path)
	mustWrite(t, d, Options{}, generation(0)...)
	var passes atomic.Int64
	for n := 1; n <= writes && !t.Failed(); n++ {
		var writing atomic.Bool
		var started, done sync.WaitGroup
		writing.Store(true)
		for range readers {
			started.Add(1)
			done.Go(func() {
				first := true
				for first || writing.Load() {
					passes.Add(1)
					if err := readPass(path, n); err != nil {
						t.Errorf("during Write %d: %v", n, err)
						writing.Store(false)
					}
					if first {
						started.Done()
						first = false
					}
				}
			})
		}
		started.Wait()
		changed, err := d.Write(generation(n), Options{})
		writing.Store(false)
		done.Wait()
		if err != nil || !changed {
			t.Fatalf("Write %d: %v, %v", n, changed, err)
		}
	}
	if passes.Load() < 2*writes {
		t.Errorf("only %d passes: nothing was read during the writes", passes.Load())
	}
	sweep(t, d)
	checkExact(t, path, treeOf(generation(writes)...))
}

// readPass reads the volume in both ways while generation n replaces n-1.
func readPass(path string, n int) error {
	root, err := os.OpenRoot(filepath.Join(path, "..data"))
	if err != nil {
		return err
	}
	defer root.Close()
	got, err := readTree(root)
	if err != nil {
		return err
	}
	if !maps.Equal(got, treeOf(generation(n)...)) && !maps.Equal(got, treeOf(generation(n-1)...)) {
		return fmt.Errorf("open payload is a mix: %q", got)
	}
	for _, name := range []string{"stable", "d/stable", "mode"} {
		if err := readLink(filepath.Join(path, name), n); err != nil {
			return err
		}
	}
	return nil
}

func readLink(path string, n int) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("gap: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if body := string(b); err != nil || (body != string(generation(n)[0].Contents) && body != string(generation(n - 1)[0].Contents)) {
		return fmt.Errorf("%s holds %q, %v", path, b, err)
	}
	return nil
}

// Dirs are safe for concurrent use.
func TestConcurrentWrites(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for n := range 50 {
				if _, err := d.Write(generation(50*i+n), Options{}); err != nil {
					t.Error(err)
				}
				if ok, err := d.Complete(); !ok || err != nil {
					t.Errorf("Complete = %v, %v", ok, err)
				}
			}
		})
	}
	group.Wait()
	mustWrite(t, d, Options{}, generation(3)...)
	sweep(t, d)
	checkExact(t, path, treeOf(generation(3)...))
}
