package export

import (
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// buffers is a mem.BufferPool that keeps the buffer of a batch for the next one. Garbage
// collections empty gRPC's own pools, so nearly each batch would take new memory, and
// with the default pool 1 MB of it.
type buffers struct {
	mem.NopBufferPool // for answers, which are small

	batch atomic.Pointer[[]byte]
}

// small is the size up to which a message is not of a batch, in bytes.
const small = 4 << 10

// Get implements mem.BufferPool.
func (p *buffers) Get(size int) *[]byte {
	if size <= small {
		return p.NopBufferPool.Get(size)
	}
	b := p.batch.Swap(nil)
	if b == nil || cap(*b) < size {
		b = new(make([]byte, size))
	}
	*b = (*b)[:size]
	return b
}

// Put implements mem.BufferPool.
func (p *buffers) Put(b *[]byte) {
	if cap(*b) > small {
		p.batch.Store(b)
	}
}
