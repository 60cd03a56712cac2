package tmpfs

import (
	"strings"

	"golang.org/x/sys/unix"
)

// fsContext is a file system under construction, or an existing one to reconfigure: see fsopen(2)
// and fspick(2).
type fsContext struct{ fd int }

func openContext() (fsContext, error) {
	fd, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	return fsContext{fd}, err
}

func (c fsContext) close() { _ = unix.Close(c.fd) }

func (c fsContext) set(p parameter) error {
	var err error
	if p.value == "" {
		err = unix.FsconfigSetFlag(c.fd, p.key)
	} else {
		err = unix.FsconfigSetString(c.fd, p.key, p.value)
	}
	if err != nil {
		return &refusal{what: p, reason: c.log(), err: err}
	}
	return nil
}

func (c fsContext) setAll(list []parameter) error {
	for _, p := range list {
		if err := c.set(p); err != nil {
			return err
		}
	}
	return nil
}

// mount creates the file system and returns a mount of it, which is not attached yet.
func (c fsContext) mount() (fd int, err error) {
	if err := unix.FsconfigCreate(c.fd); err != nil {
		return -1, &refusal{reason: c.log(), err: err}
	}
	const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	fd, err = unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return -1, &refusal{reason: c.log(), err: err}
	}
	return fd, nil
}

func (c fsContext) reconfigure() error {
	if err := unix.FsconfigReconfigure(c.fd); err != nil {
		return &refusal{reason: c.log(), err: err}
	}
	return nil
}

// log reads the kernel's messages, one per read, until there are no more. Each starts with its
// level: e, w or i.
func (c fsContext) log() string {
	var messages []string
	buffer := make([]byte, 512)
	for {
		n, err := unix.Read(c.fd, buffer)
		if err != nil || n <= 0 {
			return strings.Join(messages, "; ")
		}
		message := strings.TrimSpace(string(buffer[:n]))
		if level, text, ok := strings.Cut(message, " "); ok && len(level) == 1 {
			message = text
		}
		messages = append(messages, message)
	}
}
