package provider

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// What is asked for again and again is remembered, whatever else comes and goes,
// and what is remembered is bounded.
func TestHasherForgetsTheUnused(t *testing.T) {
	var h Hasher
	var used, unused [sha256.Size]byte
	used[31], unused[31] = 1, 2
	h.keep(used, "used")
	h.keep(unused, "unused")
	for i := range uint64(3 * maxVersions) {
		var id [sha256.Size]byte
		binary.BigEndian.PutUint64(id[:], i+1)
		h.keep(id, "other")
		if i%1000 != 0 {
			continue
		}
		version, ok := h.find(used)
		if !ok || version != "used" {
			t.Fatalf("forgotten after %d others", i)
		}
		h.keep(used, version)
	}
	if _, ok := h.find(unused); ok {
		t.Error("what nobody asks for is remembered for ever")
	}
	if n := len(h.recent) + len(h.earlier); n > 2*maxVersions {
		t.Errorf("%d versions are remembered", n)
	}
}
