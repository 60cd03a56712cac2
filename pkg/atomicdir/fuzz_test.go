package atomicdir

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// FuzzWrite writes random sequences of payloads, with foreign entries between them, and checks that
// the volume always has exactly the last valid one.
func FuzzWrite(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x01, 0x12, 0x23, 0xff, 0x01, 0x52, 0xff, 0xff, 0x01})
	f.Add([]byte{0x06, 0x17, 0x28, 0xff, 0x06, 0xfe, 0x16, 0xff, 0x08, 0xfd, 0x39})
	f.Add([]byte{0x00, 0xff, 0xfc, 0x0a, 0xff})
	f.Add([]byte{0x0a, 0xff, 0x0b, 0xff, 0x0a, 0x0b, 0xff, 0xfc, 0x0c, 0xff, 0x0c})
	base := newVolume(f)
	f.Fuzz(func(t *testing.T, script []byte) {
		path := testkit.Value(os.MkdirTemp(base, "fuzz"))(t)
		defer os.RemoveAll(path)
		d := open(t, path)
		var want []File
		mustWrite(t, d, Options{})
		for len(script) > 0 {
			var files []File
			files, script = nextPayload(t, path, script)
			_, err := d.Write(files, Options{})
			if valid := ValidateFiles(files); (err == nil) != (valid == nil) {
				t.Fatalf("Write(%v) = %v, ValidateFiles = %v", files, err, valid)
			}
			if err == nil {
				want = files
			} else {
				mustWrite(t, d, Options{}, want...) // mends what the debris broke
			}
			sweep(t, d)
			checkExact(t, path, treeOf(want...))
			if mustWrite(t, d, Options{}, want...) {
				t.Fatal("the same files are a change")
			}
		}
	})
}

// nextPayload reads the script up to 0xff: a byte from 0xfc throws debris, and
// any other is a file with the contents and mode of its high bits.
func nextPayload(t *testing.T, path string, script []byte) ([]File, []byte) {
	names := []string{"a", "b", "a/b", "a/c", "ab", "a.b", "d/e/f", "d/e/g", "d/e", "d", "..x", "d//e", "é", "a-b/c", "-", "d/e-"}
	var files []File
	for i, b := range script {
		switch b {
		case 0xff:
			return files, script[i+1:]
		case 0xfe:
			testkit.Must(t, os.MkdirAll(filepath.Join(path, "..data_tmp/x/y"), 0o755))
		case 0xfd:
			testkit.Must(t, os.MkdirAll(filepath.Join(path, "..2020_01_01_01_01_01.1/x"), 0o755))
		case 0xfc:
			_ = os.Remove(filepath.Join(path, "a")) // there or not
		default:
			mode := []fs.FileMode{0, 0o400, 0o644, 0o777}[b>>4&3]
			files = append(files, File{Path: names[b&15], Mode: mode, Contents: fmt.Append(nil, b>>6)})
		}
	}
	return files, nil
}
