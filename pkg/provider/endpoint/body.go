package endpoint

import (
	"errors"
	"io"
	"net/http"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// ErrTooLarge says that an answer was larger than its limit.
var ErrTooLarge = errors.New("the answer is too large")

const (
	// presized bounds the buffer that is allocated from an answer's Content-Length, in bytes.
	presized = 64 << 10
	// maxRefusal bounds the body of an unsuccessful answer, in bytes: the store's texts are short,
	// and a longer one is a proxy's page.
	maxRefusal = 64 << 10
)

// Bound makes the body of an answer end with ErrTooLarge after limit bytes. It truncates the body
// of an unsuccessful answer.
func Bound(r *http.Response, limit int64) {
	r.Body = &boundedBody{ReadCloser: r.Body, left: limit}
	if r.StatusCode < http.StatusMultipleChoices {
		return
	}
	if r.ContentLength > maxRefusal {
		r.ContentLength = -1
	}
	r.Body = &shortBody{r.Body, maxRefusal}
}

// shortBody reads to the end, and drops the bytes beyond its limit.
type shortBody struct {
	io.ReadCloser
	left int
}

func (b *shortBody) Read(p []byte) (int, error) {
	if b.left > 0 {
		n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
		b.left -= n
		return n, err
	}
	if _, err := io.Copy(io.Discard, b.ReadCloser); err != nil {
		return 0, err
	}
	return 0, io.EOF
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

// Ahead is how many bytes are charged for an answer before the request. Most answers need no more.
const Ahead = 8 << 10

// ReadBody reads an answer to its end, into no more memory than it needs, since the answer may stay
// in memory for long. It charges the memory before it allocates, and counts the bytes that c has
// already. It stops at an error of the charge.
func ReadBody(r *http.Response, c *budget.Charge) ([]byte, error) {
	if r.ContentLength > presized {
		if err := grow(c, r.ContentLength+1); err != nil {
			return nil, err
		}
	}
	if r.ContentLength < 0 || r.ContentLength > presized {
		return readGrowing(r, c)
	}
	if err := grow(c, r.ContentLength); err != nil {
		return nil, err
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return nil, err
	}
	// A read that returns the end lets the transport reuse the connection.
	var more [1]byte
	switch n, err := r.Body.Read(more[:]); {
	case n > 0:
		return nil, errors.New("the answer is longer than it says")
	case err != nil && err != io.EOF:
		return nil, err
	}
	return body, nil
}

// readGrowing doubles its buffer as it fills, up to the answer's Content-Length.
func readGrowing(r *http.Response, c *budget.Charge) ([]byte, error) {
	const first = 4 << 10
	body := make([]byte, 0, first)
	for {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, err
		case len(body) < cap(body):
			continue
		}
		size := 2 * cap(body)
		if says := int(r.ContentLength); says > len(body) && says < size {
			size = says + 1 // to read the end
		}
		if err := grow(c, int64(size)); err != nil {
			return nil, err
		}
		body = append(make([]byte, 0, size), body...)
	}
}

func grow(c *budget.Charge, size int64) error {
	if size <= c.Bytes() {
		return nil
	}
	return c.Resize(size)
}
