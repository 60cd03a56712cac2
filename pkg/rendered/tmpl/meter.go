package tmpl

import (
	"fmt"
)

// bytesPerStep is how many bytes a function reads or makes in the time of one step.
const bytesPerStep = 64

// callSteps are the steps of a function call, in addition to its bytes.
const callSteps = 8

// reserveStep is by how many bytes the reserved memory grows at a time.
const reserveStep = 256 << 10

// meter counts the resources of one rendering.
type meter struct {
	limits   Limits
	steps    int64
	bytes    int64
	reserved int64
	values   map[string]any
}

// spent is the error of a rendering that has used all of its budget. It contains no value.
type spent struct {
	what string
	err  error
}

func (e *spent) Error() string { return e.what }
func (e *spent) Unwrap() error { return e.err }

func errLarge() error {
	return &spent{what: fmt.Sprintf("the class's templates make more than the %d bytes that they may", DefaultLimits().Bytes)}
}

// problem is an error of a function. It contains no value.
type problem struct{ function, what string }

func (e *problem) Error() string {
	if e.function == "" {
		return e.what
	}
	return e.function + ": " + e.what
}

// wrong returns an error of a function, in words that hold no value.
func wrong(function, format string, args ...any) error {
	return &problem{function, fmt.Sprintf(format, args...)}
}

// spend counts steps, and bytes that a function makes.
func (m *meter) spend(steps, made int) error {
	m.steps += int64(steps)
	m.bytes += int64(made)
	switch {
	case m.steps > m.limits.Steps:
		return &spent{what: "the class's templates take longer than they may: one of them loops"}
	case m.bytes > m.limits.Bytes:
		return errLarge()
	case m.bytes > m.reserved && m.limits.Reserve != nil:
		m.reserved = (m.bytes/reserveStep + 1) * reserveStep
		if err := m.limits.Reserve(m.reserved); err != nil {
			return &spent{what: err.Error(), err: err}
		}
	}
	return nil
}

// work counts a call that reads some bytes. It refuses a call that might make more bytes than the
// budget has left.
func (m *meter) work(read int, most int64) error {
	if err := m.spend(callSteps+read/bytesPerStep, 0); err != nil {
		return err
	}
	if left := m.limits.Bytes - m.bytes; most > left {
		return errLarge()
	}
	return nil
}

// made counts the bytes that a call has made.
func (m *meter) made(bytes int) error { return m.spend(bytes/bytesPerStep, bytes) }
