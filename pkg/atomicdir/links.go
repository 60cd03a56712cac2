//go:build linux

package atomicdir

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// stageLinks makes the links in ..links_tmp. After the swap a rename moves them to their names,
// which needs no space.
func (d *Dir) stageLinks(s *survey) error {
	if len(s.absent)+len(s.wrong) == 0 {
		return nil
	}
	if err := d.mkdir(d.fd, linksTmp); err != nil {
		return fmt.Errorf("creating %q in %q: %w", linksTmp, d.path, err)
	}
	fd, err := openDir(d.fd, linksTmp)
	if err != nil {
		return fmt.Errorf("opening %q in %q: %w", linksTmp, d.path, err)
	}
	defer closeFD(fd)
	if _, err := d.makeLinks(fd, s.absent); err != nil {
		return err
	}
	_, err = d.makeLinks(fd, s.wrong)
	return err
}

// makeLinks returns how many links it made, also with an error.
func (d *Dir) makeLinks(fd int, names []string) (int, error) {
	for i, name := range names {
		if err := d.symlink(dataName+"/"+name, fd, name); err != nil {
			return i, fmt.Errorf("creating link %q in %q: %w", name, d.path, err)
		}
	}
	return len(names), nil
}

// placeLinks moves the staged links to their names. It does not replace an entry that took an
// absent name meanwhile.
func (d *Dir) placeLinks(s *survey) error {
	if len(s.absent)+len(s.wrong) == 0 {
		return nil
	}
	fd, err := openDir(d.fd, linksTmp)
	if err != nil {
		return fmt.Errorf("opening %q in %q: %w", linksTmp, d.path, err)
	}
	defer closeFD(fd)
	if err := d.moveLinks(fd, s.absent, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	if err := d.moveLinks(fd, s.wrong, 0); err != nil {
		return err
	}
	return d.removeTree(linksTmp)
}

func (d *Dir) moveLinks(from int, names []string, flags uint) error {
	for _, name := range names {
		if err := d.rename(from, name, d.fd, name, flags); err != nil {
			return fmt.Errorf("placing link %q in %q: %w", name, d.path, err)
		}
	}
	return nil
}
