package vault

import (
	"errors"
	"io"
)

// errTooLarge is the answer that went over Config.MaxResponseBytes.
var errTooLarge = errors.New("the answer is too large")

// boundedBody ends with an error where an answer would not.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n, errTooLarge
	}
	return n, err
}
