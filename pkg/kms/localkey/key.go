// Package localkey seals seeds with a key that is in memory only. The key itself is stored beside
// each seed, encrypted by Transit, so that any process with access to the Transit key can open the
// seed.
package localkey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// Size is the length of a key in bytes.
const Size = 32

// ErrOpen says that a ciphertext was not sealed with this key and these associated data, or was
// changed.
var ErrOpen = errors.New("the value does not open with the key that is beside it: it was changed")

// New returns random bytes for a key. The caller wipes them.
func New() []byte {
	key := make([]byte, Size)
	_, _ = rand.Read(key) // it never fails
	return key
}

// Seal seals a plaintext.
func Seal(key, plaintext, associated []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plaintext, associated), nil
}

// Open undoes Seal.
func Open(key, sealed, associated []byte) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, sealed, associated)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// newAEAD writes a random nonce before the ciphertext. A key seals a few seeds: one for each start
// of the API server.
func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != Size {
		return nil, fmt.Errorf("a local key of %d bytes, not %d", len(key), Size)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
