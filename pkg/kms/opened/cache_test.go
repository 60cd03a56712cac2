package opened_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/opened"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func k(n int) opened.Key { return sha256.Sum256(fmt.Append(nil, n)) }

func TestBoundAndOrder(t *testing.T) {
	c := opened.New(3)
	for n := range 3 {
		c.Put(k(n), opened.Value{Plaintext: fmt.Append(nil, n), Version: n + 1})
	}
	if _, ok := c.Get(k(0)); !ok {
		t.Error("0 is gone")
	}
	c.Put(k(3), opened.Value{Plaintext: []byte("3"), Version: 4}) // takes the place of 1
	for n, want := range map[int]bool{0: true, 1: false, 2: true, 3: true} {
		v, ok := c.Get(k(n))
		if ok != want || ok && string(v.Plaintext) != fmt.Sprint(n) {
			t.Errorf("%d: %q, %v", n, v.Plaintext, ok)
		}
	}
	c.Below(3) // 0 is of version 1
	if _, ok := c.Get(k(0)); ok || c.Len() != 2 {
		t.Errorf("%d values after dropping old versions", c.Len())
	}
	c.Wipe()
	if _, ok := c.Get(k(3)); ok || c.Len() != 0 {
		t.Error("a value after the wipe")
	}
}

// Put and Get copy, so that each owner can wipe its own value.
func TestCopies(t *testing.T) {
	c := opened.New(1)
	in := opened.Value{Plaintext: []byte("seed")}
	c.Put(k(1), in)
	in.Wipe()
	out, _ := c.Get(k(1))
	testkit.Equal(t, "the plaintext", string(out.Plaintext), "seed")
	out.Wipe()
	if again, _ := c.Get(k(1)); string(again.Plaintext) != "seed" || !bytes.Equal(out.Plaintext, make([]byte, 4)) {
		t.Errorf("%q", again.Plaintext)
	}
	c.Put(k(1), opened.Value{Plaintext: []byte("other")})
	if again, _ := c.Get(k(1)); string(again.Plaintext) != "other" || c.Len() != 1 {
		t.Errorf("%q", again.Plaintext)
	}
}

func TestConcurrent(t *testing.T) {
	c := opened.New(8)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 500 {
				c.Put(k(n%16), opened.Value{Plaintext: []byte{byte(n % 16)}, Version: 1})
				if v, ok := c.Get(k((n + g) % 16)); ok && v.Plaintext[0] != byte((n+g)%16) {
					t.Error("another key's value")
				}
				if n%100 == 0 {
					c.Wipe()
				}
			}
		})
	}
	wg.Wait()
}
