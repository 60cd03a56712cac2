// Package key derives what Kubernetes calls the key id of a Transit key, and decides whether the
// key in Vault is still the same one.
package key

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// format is part of every key id and of all associated data. A change of the format needs another
// number.
const format = "mayfly-kms/1"

// idPrefix begins a key id: mayfly-1-v3-0123456789abcdef0123456789abcdef is the id of version 3 of
// the key.
const idPrefix = "mayfly-1-v"

// hashBytes is how many bytes of the hash are in a key id.
const hashBytes = 16

// Name is the part of a key id's input that does not depend on the key's version.
type Name struct {
	ClusterID string
	// Key is the name of the Transit key. The mount and the address of Vault are not part of the
	// id, because both can change.
	Key   string
	Epoch string
}

// Version is one version of a Transit key.
type Version struct {
	Type    string
	Number  int
	Created time.Time
	// Restored is when the key was restored from a backup; zero for never.
	Restored time.Time
}

// ID is the key id of a version. It is the same on every node and after every restart. It changes
// when the key is created again, restored or rotated.
func (n Name) ID(v Version) string {
	restored := ""
	if !v.Restored.IsZero() {
		restored = strconv.FormatInt(v.Restored.UnixNano(), 10)
	}
	sum := sha256.Sum256(list(format, "key id", n.ClusterID, n.Key, v.Type, strconv.Itoa(v.Number), strconv.FormatInt(v.Created.Unix(), 10), restored, n.Epoch))
	return idPrefix + strconv.Itoa(v.Number) + "-" + hex.EncodeToString(sum[:hashBytes])
}

// VersionOf returns the version of the Transit key from a key id of this plugin.
func VersionOf(id string) (int, bool) {
	rest, ok := strings.CutPrefix(id, idPrefix)
	number, hash, found := strings.Cut(rest, "-")
	if !ok || !found || len(hash) != 2*hashBytes || strings.Trim(hash, "0123456789abcdef") != "" {
		return 0, false
	}
	version, err := strconv.ParseUint(number, 10, 31)
	if err != nil || version == 0 || strconv.FormatUint(version, 10) != number {
		return 0, false
	}
	return int(version), true
}

// HashOf is the key id's form in the API server's metrics.
func HashOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Purpose is what a ciphertext is for. Nothing encrypted for one purpose can be decrypted for
// another.
type Purpose string

// The purposes.
const (
	// Seed is a seed that the API server passes to Encrypt.
	Seed Purpose = "seed"
	// Local is a key in a plugin's memory that seals seeds.
	Local Purpose = "local key"
	// Proof is a round trip of the plugin's own.
	Proof Purpose = "proof"
)

// Associated is the associated data for a purpose: it binds a ciphertext to the cluster and to the
// key id that is stored beside it.
func (n Name) Associated(p Purpose, id string) []byte {
	return list(format, string(p), n.ClusterID, id)
}

// list encodes texts so that no two lists have the same encoding.
func list(texts ...string) []byte {
	var out []byte
	for _, t := range texts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(t))) //nolint:gosec // settings and ids are short
		out = append(out, t...)
	}
	return out
}

// AnnotationLocalKey is the annotation of a stored value whose seed is sealed with a local key: it
// has that key, encrypted by Transit.
const AnnotationLocalKey = "local-key.kms.mayfly.dev"
