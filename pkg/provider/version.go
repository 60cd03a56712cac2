package provider

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

const (
	// versionRounds makes one guess at what a version was made of cost some five
	// milliseconds, for everybody who may read statuses.
	versionRounds = 1 << 15
	versionBytes  = 18
	maxVersions   = 4096
)

// Hasher makes versions of objects which the store does not number. A version
// is the same on every node of a cluster, so that tools which restart workloads
// by it see one change and not one a node; and it is a slow hash, salted by the
// class's UID, since everybody who may read a status could else try passwords
// against it. The zero value is ready for use.
type Hasher struct {
	mu    sync.Mutex
	key   []byte // of known, so that no fast hash of a secret is kept
	known map[[sha256.Size]byte]string
}

// Version is that of an object of a class with such contents.
func (h *Hasher) Version(c *class.Class, object string, contents ...[]byte) string {
	id := h.id(c, object, contents)
	h.mu.Lock()
	version, ok := h.known[id]
	h.mu.Unlock()
	if ok {
		return version
	}
	version = slowHash(c, object, contents)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil || len(h.known) >= maxVersions {
		h.known = map[[sha256.Size]byte]string{} // what is still used comes back
	}
	h.known[id] = version
	return version
}

func (h *Hasher) id(c *class.Class, object string, contents [][]byte) (id [sha256.Size]byte) {
	h.mu.Lock()
	if h.key == nil {
		h.key = make([]byte, sha256.Size)
		_, _ = rand.Read(h.key) // never fails: the runtime ends the process first
	}
	mac := hmac.New(sha256.New, h.key)
	h.mu.Unlock()
	_, _ = mac.Write(joined(append([][]byte{[]byte(salt(c)), []byte(object)}, contents...)))
	mac.Sum(id[:0])
	return id
}

func slowHash(c *class.Class, object string, contents [][]byte) string {
	sum := sha256.Sum256(joined(contents))
	// It fails for settings that do not apply here: too short a key in FIPS mode.
	out, err := pbkdf2.Key(sha256.New, string(sum[:]), joined([][]byte{[]byte(salt(c)), []byte(object)}), versionRounds, versionBytes)
	if err != nil {
		return "unknown"
	}
	return base64.RawURLEncoding.EncodeToString(out)
}

// salt is the class, as every node knows it. The UID is missing where classes
// come from a directory.
func salt(c *class.Class) string { return c.UID + "\n" + c.Ref.String() }

// joined puts each part behind its length, so that no two lists give the same.
func joined(parts [][]byte) (out []byte) {
	for _, p := range parts {
		out = append(binary.AppendUvarint(out, uint64(len(p))), p...)
	}
	return out
}
