//go:build linux

package atomicdir

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// stageLinks makes the links in ..links_tmp. After the swap a rename moves them to their names,
// which needs no space.
func (s *survey) stageLinks() error {
	if len(s.absent)+len(s.wrong) == 0 {
		return nil
	}
	if err := s.dir.sys.mkdir(s.dir.fd, linksTmp); err != nil {
		return fmt.Errorf("creating %q in %q: %w", linksTmp, s.dir.path, err)
	}
	fd, err := openDir(s.dir.fd, linksTmp)
	if err != nil {
		return fmt.Errorf("opening %q in %q: %w", linksTmp, s.dir.path, err)
	}
	defer closeFD(fd)
	if _, err := s.makeLinks(fd, s.absent); err != nil {
		return err
	}
	_, err = s.makeLinks(fd, s.wrong)
	return err
}

// makeLinks returns how many links it made, also with an error.
func (s *survey) makeLinks(fd int, names []string) (int, error) {
	for i, name := range names {
		if err := s.dir.sys.symlink(dataName+"/"+name, fd, name); err != nil {
			return i, fmt.Errorf("creating link %q in %q: %w", name, s.dir.path, err)
		}
	}
	return len(names), nil
}

// placeLinks moves the staged links to their names. It does not replace an entry that took an
// absent name meanwhile.
func (s *survey) placeLinks() error {
	if len(s.absent)+len(s.wrong) == 0 {
		return nil
	}
	fd, err := openDir(s.dir.fd, linksTmp)
	if err != nil {
		return fmt.Errorf("opening %q in %q: %w", linksTmp, s.dir.path, err)
	}
	defer closeFD(fd)
	if err := s.moveLinks(fd, s.absent, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	if err := s.moveLinks(fd, s.wrong, 0); err != nil {
		return err
	}
	return s.dir.removeTree(linksTmp)
}

func (s *survey) moveLinks(from int, names []string, flags uint) error {
	for _, name := range names {
		if err := s.dir.sys.rename(from, name, s.dir.fd, name, flags); err != nil {
			return fmt.Errorf("placing link %q in %q: %w", name, s.dir.path, err)
		}
	}
	return nil
}
