package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// screen prints for people.
type screen struct {
	w      io.Writer
	colour bool
}

// newScreen uses colour only on a terminal, and not if NO_COLOR is set.
func newScreen(out *os.File, getenv func(string) string) *screen {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &screen{w: out, colour: err == nil && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"}
}

func (s *screen) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return colour + text + plain
}

// title begins a numbered step.
func (s *screen) title(n int, text string) {
	fmt.Fprintf(s.w, "\n%s\n", s.paint(bold, fmt.Sprintf("%d. %s", n, text)))
}

func (s *screen) say(format string, args ...any) {
	fmt.Fprintf(s.w, "   "+format+"\n", args...)
}

// ran names the command whose output, or the like of it, follows.
func (s *screen) ran(format string, args ...any) {
	fmt.Fprintf(s.w, "   %s\n", s.paint(dim, "$ "+fmt.Sprintf(format, args...)))
}

// block prints text as it is, indented.
func (s *screen) block(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(s.w, "     %s\n", strings.TrimRight(line, "\n"))
	}
}

// proven prints what has been checked.
func (s *screen) proven(format string, args ...any) {
	fmt.Fprintf(s.w, "   %s %s\n", s.paint(green, "✓"), fmt.Sprintf(format, args...))
}

func (s *screen) end(took time.Duration) {
	fmt.Fprintf(s.w, "\n%s in %.1f s. Nothing is left of it: no mount, no process, no file.\n", s.paint(bold, "Done"), took.Seconds())
}

// clock is a moment as the demo prints it.
func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }

// short is a time that something took.
func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
