package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

type mountFacts struct {
	target, fsType, source, options string
}

// findMount asks findmnt, and the kernel itself where there is none.
func findMount(ctx context.Context, s *screen, target string) (mountFacts, error) {
	if path, err := exec.LookPath("findmnt"); err == nil {
		s.ran("findmnt --mountpoint %s", target)
		return askFindmnt(ctx, path, target)
	}
	s.ran("grep %s /proc/self/mountinfo", target)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return mountFacts{}, fmt.Errorf("listing mounts: %w", err)
	}
	return parseMountInfo(string(data), target)
}

func askFindmnt(ctx context.Context, path, target string) (mountFacts, error) {
	out, err := exec.CommandContext(ctx, path, "--raw", "--noheadings", "--mountpoint", target, "--output", "FSTYPE,SOURCE,OPTIONS").CombinedOutput()
	if err != nil {
		return mountFacts{}, fmt.Errorf("running findmnt: %w: nothing seems to be mounted at %q: %s", err, target, out)
	}
	fields := strings.Fields(string(out))
	if len(fields) != 3 {
		return mountFacts{}, fmt.Errorf("reading findmnt's answer: %q has not three words", out)
	}
	return mountFacts{target, fields[0], fields[1], fields[2]}, nil
}

// parseMountInfo finds the last, so the topmost, mount at target. The format is that of
// proc_pid_mountinfo(5).
func parseMountInfo(text, target string) (mountFacts, error) {
	found := mountFacts{}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		mount, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 6 || len(fs) < 3 || mount[4] != target {
			continue
		}
		options := slices.Compact(append(strings.Split(mount[5], ","), strings.Split(fs[2], ",")...))
		found = mountFacts{target, fs[0], fs[1], strings.Join(options, ",")}
	}
	if found.target == "" {
		return found, fmt.Errorf("nothing is mounted at %q", target)
	}
	return found, nil
}

func (m mountFacts) table() string {
	return fmt.Sprintf("TARGET   %s\nFSTYPE   %s\nSOURCE   %s\nOPTIONS  %s\n", m.target, m.fsType, m.source, m.options)
}

func (m mountFacts) has(option string) bool {
	return slices.ContainsFunc(strings.Split(m.options, ","), func(o string) bool {
		return o == option || strings.HasPrefix(o, option+"=")
	})
}

// check refuses a mount that breaks one of Mayfly's promises.
func (m mountFacts) check(target string) error {
	if m.fsType != "tmpfs" || m.source != tmpfs.Source {
		return fmt.Errorf("%q is a %s from %q, not a tmpfs from %q", target, m.fsType, m.source, tmpfs.Source)
	}
	for _, option := range []string{"nosuid", "nodev", "noexec", "size", "nr_inodes"} {
		if !m.has(option) {
			return fmt.Errorf("the mount at %q has no option %s, but only %s", target, option, m.options)
		}
	}
	return nil
}

// swap says whether the contents can be swapped out. The kernel grants noswap only to the machine's
// own root.
func (m mountFacts) swap() string {
	switch {
	case m.has("noswap"):
		return ", and never swapped out (noswap)"
	case ordinary():
		return " (noswap is for the real root: a node has it)"
	}
	return " (this kernel is older than 6.3 and has no noswap)"
}
