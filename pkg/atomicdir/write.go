//go:build linux

package atomicdir

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Options are the properties of a payload that its files share.
type Options struct {
	// GID is the volume group: every directory of the payload and every file without an Owner.GID
	// belongs to it, and it may read every file without an Owner. nil means the group of this
	// process, and unchanged modes.
	GID *uint32
	// Now gives the time in the payload directory's name. nil means time.Now.
	Now func() time.Time
}

// Write makes the files the whole payload of the volume, all or nothing.
//
//  1. Validate the files.
//  2. Survey the directory. If a wanted name is taken by something foreign that
//     is not a link, fail; so far nothing is touched.
//  3. Remove what an interrupted Write left behind, and the payload that the
//     Write before this one replaced.
//  4. Compare the live payload with the files: paths, contents, modes, groups,
//     owners. If nothing differs, skip 5, 7 and 8: the live payload is not
//     touched.
//  5. Write the payload into a new directory, closed to others until it is
//     complete.
//  6. Make the user-visible links that are missing or wrong, in ..links_tmp.
//  7. Make ..data_tmp, which leads to the new directory. From here on nothing
//     needs space.
//  8. Swap: rename ..data_tmp to ..data.
//  9. Move the links of 6 into place.
//  10. Remove the links that lead to no file any more.
//
// In a directory without a payload and without a link in the way, there are no readers yet: Write
// skips step 6, and makes the links in place at the end of step 8.
//
// Write reports whether it swapped in a new payload. If a step up to 8 fails, it removes its own
// changes and the volume serves the old payload. If a later step fails, the volume serves the new
// payload, changed is true beside the error, and the next Write completes the rest. The same holds
// for a crash: the next Write removes its leftovers.
//
// The replaced payload stays, under its hidden name, until the next Write, so that a
// reader that has opened it, or was resolving a path in it during the swap, can finish. Removed at
// once, it would make such a reader miss a file that is in both payloads. So a volume needs space
// for two payloads at all times.
//
// Write does not sync: the volume is in memory.
//
// The volume directory keeps its own mode and owners. Directories of the payload are 0755 whatever
// the umask. An empty list of files makes an empty payload.
func (d *Dir) Write(files []File, o Options) (changed bool, err error) {
	// 1. Validate.
	p, err := newPlan(files, o)
	if err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return false, d.closedError()
	}
	// 2. Survey.
	s, err := d.surveyFor(p.tops)
	if err != nil {
		return false, err
	}
	defer s.close()
	//   3. Remove leftovers.
	if err := d.removeTrees(s.leftovers); err != nil {
		return false, err
	}
	// 4. Compare.
	changed, err = d.differs(s.live, p)
	if err != nil {
		return false, err
	}
	// 5 to 8. Everything that may fail for lack of space, and the swap.
	if err := d.replace(p, s, changed); err != nil {
		return false, err
	}
	//   9. and 10. Move the new links into place, remove the old ones.
	return changed, d.finish(s)
}

// Repair does the steps that a crash of a Write skipped after the swap: 9 and 10 for the live
// payload. It removes no payload, so the replaced payload's last readers can go on.
func (d *Dir) Repair() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return d.closedError()
	}
	live, err := d.openLive()
	if err != nil || live.name == "" {
		return err
	}
	tops, err := readNames(live.fd)
	closeFD(live.fd)
	if err != nil {
		return fmt.Errorf("listing %q in %q: %w", live.name, d.path, err)
	}
	s, err := d.surveyFor(tops)
	if err != nil {
		return err
	}
	defer s.close()
	if err := d.removeTrees([]string{dataTmp, linksTmp}); err != nil {
		return err
	}
	if err := s.stageLinks(); err != nil {
		return errors.Join(d.explainSpace(err, &plan{}, len(s.absent)+len(s.wrong)), d.removeTree(linksTmp))
	}
	return d.finish(s)
}

// finish does steps 9 and 10.
func (d *Dir) finish(s *survey) error {
	if err := s.placeLinks(); err != nil {
		return err
	}
	for _, name := range s.stray {
		// Not removeTree: a directory that took the name meanwhile is foreign.
		if err := d.sys.unlink(d.fd, name, 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("removing link %q from %q: %w", name, d.path, err)
		}
	}
	return nil
}

func (d *Dir) removeTrees(names []string) error {
	for _, name := range names {
		if err := d.removeTree(name); err != nil {
			return err
		}
	}
	return nil
}

// replace does steps 5 to 8, or undoes them. It does not undo in a deferred function: a panic is a
// crash, and the next Write removes its leftovers.
func (d *Dir) replace(p *plan, s *survey, changed bool) error {
	links := len(s.absent) + len(s.wrong)
	made, err := d.build(p, s, changed)
	if err == nil {
		return nil
	}
	slices.Reverse(made) // the links before the payload
	undone := d.removeTrees(made)
	if !changed {
		p = &plan{} // only links needed space
	}
	return errors.Join(d.explainSpace(err, p, links), undone)
}

// build returns the names that it made, also with an error.
func (d *Dir) build(p *plan, s *survey, changed bool) (made []string, err error) {
	made = []string{dataTmp, linksTmp}
	name := ""
	if changed {
		// 5. Write the payload.
		if name, err = d.makePayload(p); name != "" {
			made = append(made, name)
		}
		if err != nil {
			return made, err
		}
	}
	if !changed || !s.first() {
		// 6. Make the links.
		if err := s.stageLinks(); err != nil || !changed {
			return made, err
		}
		// 7. and 8. Swap.
		return made, d.swap(name)
	}
	// 7. and 8. Swap, and make the links.
	if err := d.swap(name); err != nil {
		return made, err
	}
	n, err := s.makeLinks(d.fd, s.absent)
	made = slices.Concat(made, []string{dataName}, s.absent[:n])
	s.absent = s.absent[n:]
	return made, err
}

func (d *Dir) swap(name string) error {
	if err := d.sys.symlink(name, d.fd, dataTmp); err != nil {
		return fmt.Errorf("creating %q in %q: %w", dataTmp, d.path, err)
	}
	if err := d.sys.rename(d.fd, dataTmp, d.fd, dataName, 0); err != nil {
		return fmt.Errorf("swapping %q in %q: %w", dataName, d.path, err)
	}
	return nil
}

// removeTree removes an entry and all below it. It succeeds if the entry does not exist.
func (d *Dir) removeTree(name string) error {
	err := d.sys.remove(d.fd, name)
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing %q from %q: %w", name, d.path, err)
	}
	return nil
}
