package tmpfs

import (
	"strings"

	"golang.org/x/sys/unix"
)

// This file is the way of Linux before 5.2 and of sandboxes without fsopen(2).

// classicMount mounts at the open directory with mount(2), which takes a path:
// /proc/self/fd leads it to the directory without a second look-up.
func classicMount(d directory, list []parameter) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return classicCall(d, flags, list)
}

// classicResize repeats the flags of the mount, which MS_REMOUNT would
// otherwise clear.
func classicResize(d directory, info Info, list []parameter) error {
	var flags uintptr = unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if info.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return classicCall(d, flags, list)
}

func classicCall(d directory, flags uintptr, list []parameter) error {
	err := unix.Mount(Source, d.link(), fsType, flags, classicData(list))
	if err == unix.EINVAL && list[len(list)-1].key == "context" {
		return &refusal{what: list[len(list)-1], err: err}
	}
	return err
}

// classicData joins parameters into mount(2)'s one string. Quotes keep the
// commas of an SELinux context's categories together; Validate has made sure
// that a value holds no quotes.
func classicData(list []parameter) string {
	words := make([]string, len(list))
	for i, p := range list {
		switch {
		case p.value == "":
			words[i] = p.key
		case strings.Contains(p.value, ","):
			words[i] = p.key + `="` + p.value + `"`
		default:
			words[i] = p.key + "=" + p.value
		}
	}
	return strings.Join(words, ",")
}

// initialUserNamespace is the inode of /proc/self/ns/user outside all user
// namespaces, fixed by the kernel's uapi (linux/nsfs.h).
const initialUserNamespace = 0xEFFFFFFD

// classicNoSwap judges by the kernel's release, since without fsopen(2) the
// trial would be a real mount, and an empty image has no place for one.
func classicNoSwap() (ok bool, reason string) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false, "reading the kernel's release: " + err.Error()
	}
	if release := unix.ByteSliceToString(name.Release[:]); !atLeast(release, 6, 3) {
		return false, "Linux " + release + " is older than 6.3"
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &st); err != nil {
		return false, "reading /proc/self/ns/user: " + err.Error()
	}
	if st.Ino != initialUserNamespace {
		return false, "noswap is not allowed in a user namespace"
	}
	return true, ""
}

// atLeast compares the first two numbers of a kernel release such as
// "6.12.0-rc1-cloud".
func atLeast(release string, major, minor int) bool {
	a, rest := leadingNumber(release)
	b, _ := leadingNumber(strings.TrimPrefix(rest, "."))
	return a > major || a == major && b >= minor
}

// leadingNumber stops before a number can overflow.
func leadingNumber(s string) (n int, rest string) {
	i := 0
	for ; i < len(s) && i < 6 && s[i] >= '0' && s[i] <= '9'; i++ {
		n = n*10 + int(s[i]-'0')
	}
	return n, s[i:]
}
