package store

import (
	"errors"
	"io"
	"sync"
)

var errWiped = errors.New("the request has ended")

// body is the body of a request. The transport may still read it after the request has ended, so it
// is wiped under a lock.
type body struct {
	mu   sync.Mutex
	data []byte
	gone bool
}

func (b *body) wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.data)
	b.gone = true
}

// reader returns a reader from the beginning.
func (b *body) reader() (io.ReadCloser, error) { return &bodyReader{body: b}, nil }

type bodyReader struct {
	body *body
	at   int
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	switch {
	case r.body.gone:
		return 0, errWiped
	case r.at == len(r.body.data):
		return 0, io.EOF
	}
	n := copy(p, r.body.data[r.at:])
	r.at += n
	return n, nil
}

// Close implements io.Closer.
func (*bodyReader) Close() error { return nil }
