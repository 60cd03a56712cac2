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
	// versionRounds makes one guess at what a version was made of cost some
	// milliseconds, for everybody who may read statuses.
	versionRounds = 1 << 15
	versionBytes  = 18
	// maxVersions bounds what is remembered, some 130 bytes each: twice, since
	// what was used lately is kept when there are so many new ones.
	maxVersions = 1 << 13
)

// Hasher makes versions of objects which the store does not number. A version
// is the same on every node of a cluster, so that tools which restart workloads
// by it see one change and not one a node; and it is a slow hash, salted by the
// class's UID, since everybody who may read a status could else try passwords
// against it. The zero value is ready for use.
type Hasher struct {
	mu  sync.Mutex
	key []byte // of the maps, so that no fast hash of a secret is kept
	// recent are the versions since the last change of the two maps, and earlier
	// those before it.
	recent, earlier map[[sha256.Size]byte]string
}

// Version is that of an object of a class with such contents.
func (h *Hasher) Version(c *class.Class, object string, contents ...[]byte) string {
	id := h.id(c, object, contents)
	version, ok := h.find(id)
	if !ok {
		version = slowHash(c, object, contents)
	}
	h.keep(id, version)
	return version
}

func (h *Hasher) find(id [sha256.Size]byte) (version string, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if version, ok = h.recent[id]; !ok {
		version, ok = h.earlier[id]
	}
	return version, ok
}

// keep forgets what was not asked for since the maps last changed places.
func (h *Hasher) keep(id [sha256.Size]byte, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.recent[id]; ok {
		return
	}
	if h.recent == nil || len(h.recent) >= maxVersions {
		h.earlier, h.recent = h.recent, map[[sha256.Size]byte]string{}
	}
	h.recent[id] = version
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

// slowHash has a password and a salt of 32 bytes, which is long enough for any
// mode of the cryptography, so that it cannot fail.
func slowHash(c *class.Class, object string, contents [][]byte) string {
	password := sha256.Sum256(joined(contents))
	salted := sha256.Sum256(joined([][]byte{[]byte(salt(c)), []byte(object)}))
	out, err := pbkdf2.Key(sha256.New, string(password[:]), salted[:], versionRounds, versionBytes)
	if err != nil {
		panic("provider: hashing a version: " + err.Error())
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
