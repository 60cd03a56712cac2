package crash

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// payload is a reader's view of a volume.
type payload struct {
	generation                  int
	certificate, user, password string
}

// readPayload reads one payload through one open directory, as docs/classes.md says. It must be
// complete, of one generation, with a key that matches its certificate, and not expired. Only the
// database can tell whether name and password belong together.
func readPayload(target string) (payload, error) {
	files, err := readFiles(target, []string{"a", "b", "tls/crt", "tls/key", "db/user", "db/password"}, "sometimes", "more/sometimes")
	if err != nil {
		return payload{}, err
	}
	if files["sometimes"] != files["more/sometimes"] {
		return payload{}, fmt.Errorf("a mix: sometimes is %q at the top and %q in its directory", files["sometimes"], files["more/sometimes"])
	}
	generation, err := strconv.Atoi(files["a"])
	if err != nil || files["a"] != files["b"] {
		return payload{}, fmt.Errorf("a mix: a is of generation %q, b of %q", files["a"], files["b"])
	}
	pair, err := tls.X509KeyPair([]byte(files["tls/crt"]), []byte(files["tls/key"]))
	if err != nil {
		return payload{}, fmt.Errorf("a certificate without its key: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err == nil && time.Now().After(leaf.NotAfter) {
		err = errors.New("an expired certificate")
	}
	return payload{generation, files["tls/crt"], files["db/user"], files["db/password"]}, err
}

// readFiles reads the files of one payload, of which some may be missing.
func readFiles(target string, names []string, optional ...string) (map[string]string, error) {
	dir, err := unix.Open(filepath.Join(target, "..data"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("no payload: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	files := map[string]string{}
	for _, name := range append(names, optional...) {
		contents, err := readAt(dir, name)
		if errors.Is(err, unix.ENOENT) && slices.Contains(optional, name) {
			continue
		}
		if err == nil && len(contents) == 0 {
			err = errors.New("is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[name] = string(contents)
	}
	return files, nil
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}
