// Package key derives what Kubernetes calls the key id of a Transit key, and
// judges whether what Vault says of the key is still that key.
package key

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// format is part of every key id and of all associated data. Another format has
// another number.
const format = "mayfly-kms/1"

// idPrefix begins a key id: mayfly-1-v3-0123456789abcdef0123456789abcdef is of
// version 3 of the key.
const idPrefix = "mayfly-1-v"

// hashBytes is how much of the hash is in a key id.
const hashBytes = 16

// Name is what a key id is of, beside the key's version.
type Name struct {
	ClusterID string
	// Key is the name of the Transit key. The mount and the address of Vault are
	// not in the id: both can change.
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

// ID is the key id of a version. It is the same on every node and after every
// restart; a key that is made again, restored or rotated has another one.
func (n Name) ID(v Version) string {
	restored := ""
	if !v.Restored.IsZero() {
		restored = strconv.FormatInt(v.Restored.UnixNano(), 10)
	}
	sum := sha256.Sum256(list(format, "key id", n.ClusterID, n.Key, v.Type, strconv.Itoa(v.Number), strconv.FormatInt(v.Created.Unix(), 10), restored, n.Epoch))
	return idPrefix + strconv.Itoa(v.Number) + "-" + hex.EncodeToString(sum[:hashBytes])
}

// VersionOf takes the version of the Transit key out of a key id of this plugin.
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

// HashOf is how the API server's metrics write a key id.
func HashOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Purpose is what something was encrypted for. What is of one purpose cannot be
// decrypted for another.
type Purpose string

// The purposes.
const (
	// Seed is what the API server gives to Encrypt.
	Seed Purpose = "seed"
	// Local is a key that is in a plugin's memory, and seals seeds.
	Local Purpose = "local key"
	// Proof is a round trip of the plugin's own.
	Proof Purpose = "proof"
)

// Associated is the associated data for a purpose: it binds what is encrypted to
// the cluster and to the key id that is stored beside it.
func (n Name) Associated(p Purpose, id string) []byte {
	return list(format, string(p), n.ClusterID, id)
}

// list writes texts so that no two lists are written alike.
func list(texts ...string) []byte {
	var out []byte
	for _, t := range texts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(t))) //nolint:gosec // settings and ids are short
		out = append(out, t...)
	}
	return out
}

// AnnotationLocalKey is the annotation of a stored value whose seed is sealed
// under a local key: it holds that key, encrypted by Transit.
const AnnotationLocalKey = "local-key.kms.mayfly.dev"
