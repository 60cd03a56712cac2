package export

import "testing"

// TestBuffers: two batches never have the same buffer at once.
func TestBuffers(t *testing.T) {
	var p buffers
	first, second, answer := p.Get(40_000), p.Get(50_000), p.Get(5)
	if first == second || len(*first) != 40_000 || len(*second) != 50_000 || len(*answer) != 5 {
		t.Fatalf("lengths %d, %d, %d", len(*first), len(*second), len(*answer))
	}
	p.Put(first)
	p.Put(answer)
	if again := p.Get(30_000); again != first || len(*again) != 30_000 {
		t.Error("the buffer of a batch is not used again")
	} else {
		p.Put(again)
	}
	if larger := p.Get(60_000); larger == first || len(*larger) != 60_000 {
		t.Error("a larger batch has not all it needs")
	}
}
