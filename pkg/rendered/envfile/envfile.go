// Package envfile writes files of environment variables that kubelet reads for fileKeyRef
// (KEP-3721): each value in single quotes, which can contain everything but a single quote. It
// refuses a value that kubelet would read differently.
package envfile

import (
	"errors"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Kubelet's limits, in bytes: for a line (the buffer of its reader) and for a variable's name.
const (
	maxLine = 64<<10 - 1
	maxName = 128
)

// CheckName reports whether kubelet and a pod's fileKeyRef accept a name.
func CheckName(name string) error {
	if len(name) > maxName {
		return errors.New("must be at most 128 bytes")
	}
	if messages := validation.IsEnvVarName(name); len(messages) > 0 {
		return errors.New(messages[0])
	}
	return nil
}

// Line returns the line of one variable, with the line break. The error says why kubelet would not
// read the value unchanged, and does not quote it.
func Line(name string, value []byte) ([]byte, error) {
	text := string(value)
	switch {
	case text == "":
		return nil, errors.New("is empty, which kubelet takes for missing")
	case !utf8.Valid(value):
		return nil, errors.New("is not valid UTF-8, as environment variables of a pod must be")
	case strings.Contains(text, "'"):
		return nil, errors.New("has a single quote, which ends the value for kubelet")
	case strings.ContainsRune(text, 0):
		return nil, errors.New("has a NUL byte, which no environment variable can hold")
	case strings.Contains(text, "\r\n"):
		return nil, errors.New("has a line that ends in a carriage return, which kubelet takes away")
	}
	line := name + "='" + text + "'"
	for part := range strings.SplitSeq(line, "\n") {
		if len(part) > maxLine {
			return nil, errors.New("has a line of more than 65535 bytes, which kubelet does not read")
		}
	}
	return []byte(line + "\n"), nil
}
