package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// providerName is the protocol's rule for names, but without the empty name. It also keeps a name,
// which comes from a class, inside the directory.
var providerName = regexp.MustCompile(fmt.Sprintf(`^[a-zA-Z0-9_-]{1,%d}$`, maxName))

// socket is a provider's socket file as it was when it was looked up. Two equal ones belong to the
// same listening process, because a process that restarts must make a new file.
type socket struct {
	path     string
	dev, ino uint64
	// changed is the inode's ctime, because the file system reuses inode numbers.
	changed unix.Timespec
}

// find looks for the provider's socket in each directory.
func (c *Config) find(name string) (socket, error) {
	if !providerName.MatchString(name) {
		return socket{}, fault.New(fault.UnknownProvider, "spec.provider: %q cannot be the name of a provider", name).
			WithHint("it must be at most %d letters, digits, '-' and '_'", maxName)
	}
	var problems []error
	for _, dir := range c.Dirs {
		s, err := lookUp(filepath.Join(dir, name+suffix))
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return socket{}, fault.New(fault.UnknownProvider, "looking for the socket of provider %q: %w", name, err)
	}
	return socket{}, c.unknown(name)
}

// lookUp follows a link: a process that can create one in the directory could also serve a socket
// there.
func lookUp(path string) (socket, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return socket{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return socket{}, fmt.Errorf("%s is not a socket", path)
	}
	return socket{path: path, dev: st.Dev, ino: st.Ino, changed: st.Ctim}, nil
}

func (c *Config) unknown(name string) error {
	err := fault.New(fault.UnknownProvider, "spec.provider: no provider %q on this node: there is no %s in %s",
		name, name+suffix, strings.Join(c.Dirs, " or "))
	found := "none"
	if names := c.names(); len(names) > 0 {
		found = strings.Join(names, ", ")
	}
	if len(c.BuiltIn) > 0 {
		return err.WithHint("providers found in these directories: %s; built in: %s", found, strings.Join(c.BuiltIn, ", "))
	}
	return err.WithHint("providers found in these directories: %s", found)
}

// names lists the providers that have a socket.
func (c *Config) names() []string {
	found := map[string]struct{}{}
	for _, dir := range c.Dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // the directory need not exist
		}
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), suffix)
			if !ok || !providerName.MatchString(name) {
				continue
			}
			if _, err := lookUp(filepath.Join(dir, e.Name())); err == nil {
				found[name] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
