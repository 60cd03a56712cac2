package provider

import (
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

const (
	// versionRounds makes one guess at the content behind a version cost some
	// milliseconds.
	versionRounds = 1 << 15
	versionBytes  = 18
	// maxVersions bounds each of the two maps, with some 130 bytes for each version.
	maxVersions = 1 << 13
)

// Hasher makes the versions of objects to which the store gives none. A version is the
// same on every node of a cluster, so that tools that restart workloads see one change
// and not one for each node. It is a slow hash, salted with the class's UID, because
// anyone who may read a status could otherwise try passwords against it. The zero value
// is ready for use.
type Hasher struct {
	mu  sync.Mutex
	key []byte // of the ids in the maps, so that memory has no fast hash of a secret
	// recent has the versions used since the maps were last rotated, and earlier those
	// before.
	recent, earlier map[[sha256.Size]byte]string
}

// Version returns the version of an object of a class with these contents.
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

// keep adds a version. When recent is full, it becomes earlier, and the versions that
// were not used since the last rotation are dropped.
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

// Digest returns a hash of a list of versions, which does not depend on their order. The
// length before each string makes the input unambiguous.
func Digest(versions []Version) string {
	order := func(a, b Version) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Version, b.Version))
	}
	sorted := append(make([]Version, 0, 8), versions...) // on the stack, for most
	slices.SortFunc(sorted, order)
	text := make([]byte, 0, 512)
	for _, v := range sorted {
		for _, s := range [...]string{v.ID, v.Version} {
			text = append(strconv.AppendInt(text, int64(len(s)), 10), ' ')
			text = append(append(text, s...), ' ')
		}
	}
	sum := sha256.Sum256(text)
	return string(hex.AppendEncode(append(make([]byte, 0, 128), "sha256:"...), sum[:]))
}
