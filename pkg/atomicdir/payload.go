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
	c := cursor{top: top}
	defer c.close()
	for _, n := range p.nodes {
		if err := d.makeNode(&c, n); err != nil {
			return name, fmt.Errorf("writing %s in %q: %w", quote(n.path), d.path, err)
		}
	}
	if err := d.own(top, name, p.root()); err != nil {
		return name, fmt.Errorf("opening payload %q in %q to its readers: %w", name, d.path, err)
	}
	return name, nil
}

func (d *Dir) makePayloadDir(now time.Time) (string, error) {
	for attempt := range maxNames {
		name := payloadName(now, attempt)
		err := d.mkdir(d.fd, name)
		if err == nil {
			return name, nil
		}
		if err != unix.EEXIST {
			return "", err
		}
	}
	return "", unix.EEXIST
}

func (d *Dir) makeNode(c *cursor, n node) error {
	dir, name := split(n.path)
	parent, err := c.at(dir)
	if err != nil {
		return err
	}
	if n.dir {
		return d.makeDir(c, parent, name, n)
	}
	fd, err := d.create(parent, name)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := d.write(fd, name, n.contents); err != nil {
		return err
	}
	return d.own(fd, name, n)
}

// makeDir leaves the cursor in the new directory, because the next node most likely belongs there.
func (d *Dir) makeDir(c *cursor, parent int, name string, n node) error {
	if err := d.mkdir(parent, name); err != nil {
		return err
	}
	fd, err := openDir(parent, name)
	if err != nil {
		return err
	}
	c.set(n.path, fd)
	return d.own(fd, name, n)
}
