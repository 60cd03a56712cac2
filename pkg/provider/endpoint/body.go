package endpoint

import (
	"errors"
	"io"
	"net/http"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// ErrTooLarge is the answer that went over its bound.
var ErrTooLarge = errors.New("the answer is too large")

const (
	// presized bounds the room that is made for an answer on its own word.
	presized = 64 << 10
	// maxRefusal is the most that is taken of an answer that is no success: what
	// stores say is short, and what is longer is a proxy's page.
	maxRefusal = 64 << 10
)

// Bound makes the body of an answer end with ErrTooLarge after so many bytes.
// Of that of a refusal only the beginning is passed on.
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

// shortBody reads to the end, and drops what is more than it passes on.
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

// Ahead is what is charged for an answer before it is asked for. Most need no
// more.
const Ahead = 8 << 10

// ReadBody reads an answer to its end, and takes no more memory for it than it
// fills: it may be kept for long. The memory is charged before it is taken,
// what a charge has already included. The charge's error ends it.
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

// readGrowing doubles its room as it fills, but makes none above the length
// that the answer says it has.
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
			size = says + 1 // to see the end
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
