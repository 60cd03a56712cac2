package atomicdir

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Whatever entries are planted in a volume, a Write touches nothing outside of it, and the volume
// is right in the end.
func TestWriteAgainstPlantedEntries(t *testing.T) {
	const stale = "..2020_01_01_01_01_01.1"
	plants := map[string]func(path, outside string) error{
		"..data to outside": func(p, out string) error {
			return errors.Join(os.Remove(p+"/..data"), os.Symlink(out, p+"/..data"))
		},
		"..data to a relative path outside": func(p, out string) error {
			rel, err := filepath.Rel(p, out)
			return errors.Join(err, os.Remove(p+"/..data"), os.Symlink(rel, p+"/..data"))
		},
		"..data to itself": func(p, _ string) error {
			return errors.Join(os.Remove(p+"/..data"), os.Symlink("..data", p+"/..data"))
		},
		"..data to a payload name that is a symlink": func(p, out string) error {
			return errors.Join(os.Remove(p+"/..data"), os.Symlink(out, p+"/"+stale), os.Symlink(stale, p+"/..data"))
		},
		"..data to a payload name that is a file": func(p, _ string) error {
			return errors.Join(os.Remove(p+"/..data"), os.WriteFile(p+"/"+stale, nil, 0o600), os.Symlink(stale, p+"/..data"))
		},
		"live payload replaced by a symlink": func(p, out string) error {
			name, err := os.Readlink(p + "/..data")
			return errors.Join(err, os.RemoveAll(p+"/"+name), os.Symlink(out, p+"/"+name))
		},
		"next payload name": func(p, out string) error {
			return os.Symlink(out, p+"/"+payloadName(fixedTime(), 0))
		},
		"stale payload that is a symlink": func(p, out string) error { return os.Symlink(out, p+"/"+stale) },
		"stale payload with symlinks inside": func(p, out string) error {
			return errors.Join(os.MkdirAll(p+"/"+stale+"/d", 0o755), os.Symlink(out, p+"/"+stale+"/d/x"), os.Symlink(out, p+"/"+stale+"/y"))
		},
		"user link to outside": func(p, out string) error {
			return errors.Join(os.Remove(p+"/a"), os.Symlink(out+"/a", p+"/a"))
		},
		"user link of a directory to outside": func(p, out string) error {
			return errors.Join(os.Remove(p+"/d"), os.Symlink(out, p+"/d"))
		},
		"directory in the payload": func(p, out string) error {
			return errors.Join(os.RemoveAll(p+"/..data/d"), os.Symlink(out, p+"/..data/d"))
		},
		"file in the payload": func(p, out string) error {
			return errors.Join(os.Remove(p+"/..data/a"), os.Symlink(out+"/a", p+"/..data/a"))
		},
		"..data_tmp as symlink": func(p, out string) error { return os.Symlink(out, p+"/..data_tmp") },
		"..data_tmp as file":    func(p, _ string) error { return os.WriteFile(p+"/..data_tmp", nil, 0o600) },
		"..data_tmp as directory": func(p, out string) error {
			return errors.Join(os.MkdirAll(p+"/..data_tmp/x/y", 0o755), os.Symlink(out, p+"/..data_tmp/x/z"))
		},
		"..links_tmp as symlink": func(p, out string) error { return os.Symlink(out, p+"/..links_tmp") },
		"..links_tmp as directory": func(p, out string) error {
			return errors.Join(os.Mkdir(p+"/..links_tmp", 0o755), os.Symlink(out, p+"/..links_tmp/a"))
		},
	}
	old := []File{file("a", "1"), file("d/b", "1")}
	// The outside has the same content as the wanted payload: a comparison that reads there would
	// find no change.
	for name, plant := range plants {
		for _, next := range [][]File{old, {file("a", "2"), file("d/b", "2"), file("new", "2")}, {file("new", "2")}} {
			t.Run(name, func(t *testing.T) {
				path, outside := newVolume(t), t.TempDir()
				outsideDir := open(t, outside)
				for _, f := range next {
					testkit.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(outside, f.Path)), 0o755))
					testkit.Must(t, os.WriteFile(filepath.Join(outside, f.Path), f.Contents, 0o644))
				}
				testkit.Must(t, outsideDir.Close())
				before := stamps(t, outside)
				d := open(t, path)
				mustWrite(t, d, Options{}, old...)
				testkit.Must(t, plant(path, outside))
				mustWrite(t, d, Options{Now: fixedTime}, next...)
				sweep(t, d)
				checkExact(t, path, treeOf(next...), foreignLinks(t, path, treeOf(next...))...)
				if st := stat(t, live(t, path)); st.Dev != stat(t, path).Dev {
					t.Error("..data leads to another file system")
				}
				if !maps.Equal(stamps(t, outside), before) {
					t.Error("something outside of the volume was changed")
				}
			})
		}
	}
}

// foreignLinks returns the planted links under names that the payload does not have, which Write
// must not remove.
func foreignLinks(t *testing.T, path string, payload tree) []string {
	var names []string
	for _, name := range []string{"a", "d"} {
		target, err := os.Readlink(filepath.Join(path, name))
		if err == nil && filepath.IsAbs(target) && !slices.Contains(payload.tops(), name) {
			names = append(names, name)
		}
	}
	return names
}
