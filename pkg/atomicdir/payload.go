//go:build linux

package atomicdir

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// maxNames bounds the search for an unused payload name.
const maxNames = 100

// makePayload returns the name as soon as the directory exists, with or without
// an error.
func (d *Dir) makePayload(p *plan) (string, error) {
	name, err := d.makePayloadDir(p.now)
	if err != nil {
		return "", fmt.Errorf("creating payload directory in %q: %w", d.path, err)
	}
	top, err := openDir(d.fd, name)
	if err != nil {
		return name, fmt.Errorf("opening payload %q in %q: %w", name, d.path, err)
	}
	defer closeFD(top)
	w := payloadWriter{sys: &d.sys, cursor: cursor{top: top}}
	defer w.cursor.close()
	for _, n := range p.nodes {
		if err := w.add(n); err != nil {
			return name, fmt.Errorf("writing %s in %q: %w", quote(n.path), d.path, err)
		}
	}
	if err := d.sys.own(top, name, p.root()); err != nil {
		return name, fmt.Errorf("opening payload %q in %q to its readers: %w", name, d.path, err)
	}
	return name, nil
}

func (d *Dir) makePayloadDir(now time.Time) (string, error) {
	for attempt := range maxNames {
		name := payloadName(now, attempt)
		err := d.sys.mkdir(d.fd, name)
		if err == nil {
			return name, nil
		}
		if err != unix.EEXIST {
			return "", err
		}
	}
	return "", unix.EEXIST
}

// payloadWriter writes the files and directories of a new payload.
type payloadWriter struct {
	sys    *calls
	cursor cursor
}

func (w *payloadWriter) add(n node) error {
	dir, name := split(n.path)
	parent, err := w.cursor.at(dir)
	if err != nil {
		return err
	}
	if n.dir {
		return w.addDir(parent, name, n)
	}
	fd, err := w.sys.create(parent, name)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := w.sys.write(fd, name, n.contents); err != nil {
		return err
	}
	return w.sys.own(fd, name, n)
}

// addDir leaves the cursor in the new directory, because the next node most likely belongs there.
func (w *payloadWriter) addDir(parent int, name string, n node) error {
	if err := w.sys.mkdir(parent, name); err != nil {
		return err
	}
	fd, err := openDir(parent, name)
	if err != nil {
		return err
	}
	w.cursor.set(n.path, fd)
	return w.sys.own(fd, name, n)
}
