package chain

import (
	"bufio"
	"errors"
	"io"
	"regexp"
)

// MaxLine is the greatest length of a line that is read, in bytes: more than twice
// that of a driver's longest line.
const MaxLine = 1 << 20

// before matches the prefix that kubectl logs adds to a line with --prefix and
// --timestamps.
var before = regexp.MustCompile(`^(\[pod/[a-z0-9.-]+/[a-z0-9-]+\] )?(\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d) )?`)

// entry matches the prefix that a container runtime adds to a line, or to a part of
// one, in kubelet's log files: the time, the stream, and P for a part that
// continues in the next entry of the stream.
var entry = regexp.MustCompile(`^\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF])(?::[^ ]*)? `)

// Lines calls take for each line of a log, without its end and without the prefixes
// of kubectl logs and of a container runtime. The number is that of the line's end
// in r, from 1. A line that is longer than MaxLine is cut to MaxLine+1 bytes. The
// text is valid until take returns.
func Lines(r io.Reader, take func(number int, text []byte)) error {
	b := bufio.NewReaderSize(r, 64<<10)
	parts := map[string][]byte{} // by stream
	for number := 1; ; number++ {
		text, err := readLine(b)
		if len(text) > 0 {
			if whole, ok := unwrap(text, parts); ok {
				take(number, whole)
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// unwrap returns the text that a program wrote; false while a part of the line is
// missing.
func unwrap(text []byte, parts map[string][]byte) ([]byte, bool) {
	if m := entry.FindSubmatchIndex(text); m != nil {
		stream, tag := string(text[m[2]:m[3]]), text[m[4]]
		whole := appendUpTo(parts[stream], text[m[1]:])
		if tag == 'P' {
			parts[stream] = whole
			return nil, false
		}
		delete(parts, stream)
		return whole, true
	}
	return text[len(before.Find(text)):], true
}

// readLine returns one line without its end.
func readLine(b *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := b.ReadSlice('\n')
		if n := len(part); n > 0 && part[n-1] == '\n' {
			part = part[:n-1]
		}
		text = appendUpTo(text, part)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, err
		}
	}
}

func appendUpTo(text, more []byte) []byte {
	return append(text, more[:min(len(more), MaxLine+1-len(text))]...)
}
