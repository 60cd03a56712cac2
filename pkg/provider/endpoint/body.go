package endpoint

import (
	"errors"
	"io"
	"net/http"
)

// ErrTooLarge is the answer that went over its bound.
var ErrTooLarge = errors.New("the answer is too large")

// presized bounds the room that is made for an answer on its own word.
const presized = 64 << 10

// Bound makes the body of an answer end with ErrTooLarge after so many bytes.
func Bound(r *http.Response, limit int64) {
	r.Body = &boundedBody{ReadCloser: r.Body, left: limit}
}

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
		return n, ErrTooLarge
	}
	return n, err
}

// ReadBody reads an answer to its end, and takes no more memory for it than it
// fills: it may be kept for long.
func ReadBody(r *http.Response) ([]byte, error) {
	if r.ContentLength < 0 || r.ContentLength > presized {
		return io.ReadAll(r.Body)
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return nil, err
	}
	// Once it has said that it is at its end, the connection can be used again.
	var more [1]byte
	switch n, err := r.Body.Read(more[:]); {
	case n > 0:
		return nil, errors.New("the answer is longer than it says")
	case err != nil && err != io.EOF:
		return nil, err
	}
	return body, nil
}
