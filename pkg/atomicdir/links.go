package atomicdir

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// stageLinks makes the links beside their place, so that putting them there
// after the swap is a rename, which needs no space.
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
	for _, names := range [][]string{s.absent, s.wrong} {
		for _, name := range names {
			if err := d.symlink(dataName+"/"+name, fd, name); err != nil {
				return fmt.Errorf("creating link %q in %q: %w", name, d.path, err)
			}
		}
	}
	return nil
}

// placeLinks moves the staged links to their names. A name that was absent is
// not replaced if something has taken it since.
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
