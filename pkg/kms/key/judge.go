package key

import (
	"fmt"
	"maps"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/transit"
)

// Kind says how a key differs from the announced one.
type Kind string

// The kinds.
const (
	// Replaced is a key of the same name with other contents: the old one was deleted, and its
	// ciphertexts cannot be decrypted.
	Replaced Kind = "replaced"
	// Gone is a key that no longer exists in Vault.
	Gone Kind = "gone"
	// WentBack is a key that has lost versions, for example because an old backup of Vault was
	// restored.
	WentBack Kind = "went_back"
)

// Problem is the error for a key that the plugin must not use.
type Problem struct {
	Kind Kind
	text string
}

// Error says what is wrong, and what to do.
func (p *Problem) Error() string { return p.text }

// History is what this process has seen of a key, to compare it with. It is empty after a start, so
// then every key is new.
type History struct {
	name Name
	// announced is the version that the API server has received.
	announced Version
	id        string
	// created is when each version was created that this process has seen.
	created map[int]time.Time
	former  map[string]bool // earlier announced ids
}

// NewHistory makes an empty history.
func NewHistory(n Name) *History {
	return &History{name: n, created: map[int]time.Time{}, former: map[string]bool{}}
}

// Next is the version of a key that should be announced, with its id: the announced one or a newer
// one. The error is a Problem if the key is not the announced one.
func (h *History) Next(k transit.Key) (Version, string, error) {
	next := Version{Type: k.Type, Number: k.Latest, Created: k.Created[k.Latest], Restored: k.Restored}
	id := h.name.ID(next)
	if h.id == "" {
		return next, id, nil
	}
	for version, now := range k.Created {
		if then, seen := h.created[version]; seen && !then.Equal(now) {
			return Version{}, "", h.replaced("version %d was made at %s, and the key that is there now has one of %s", version, stamp(then), stamp(now))
		}
	}
	switch {
	case k.Type != h.announced.Type:
		return Version{}, "", h.replaced("it was of type %s, and is of type %s now", h.announced.Type, k.Type)
	case k.Latest < h.announced.Number:
		return Version{}, "", &Problem{WentBack, fmt.Sprintf("the Transit key %q went back from version %d to %d, as by the restore of an old backup of Vault: what version %d has encrypted cannot be opened. Do not rotate the key; restore Vault from a newer backup", h.name.Key, h.announced.Number, k.Latest, h.announced.Number)}
	case h.former[id]:
		return Version{}, "", &Problem{WentBack, fmt.Sprintf("the Transit key %q is back at an earlier state (key id %s), as by the restore of an old backup of Vault; set another --key-epoch on all nodes if that is to stay", h.name.Key, id)}
	}
	return next, id, nil
}

// Missing is the Problem for a key that does not exist in Vault; nil if none was announced.
func (h *History) Missing() error {
	if h.id == "" {
		return nil
	}
	return &Problem{Gone, fmt.Sprintf("the Transit key %q is gone: it was deleted, or its mount was moved. What it has encrypted cannot be opened after a restart. Restore the key from a backup of Vault before anything restarts; do not make a new one under this name", h.name.Key)}
}

func (h *History) replaced(format string, args ...any) error {
	return &Problem{Replaced, fmt.Sprintf("the Transit key %q was deleted and made again: ", h.name.Key) + fmt.Sprintf(format, args...) +
		". What the old key has encrypted cannot be opened after a restart. Restore the old key from a backup of Vault before anything restarts. Only if it is lost for good, restart mayfly-kms, which takes the new key then"}
}

// Announce records the version that the API server receives from now on.
func (h *History) Announce(v Version, id string, k transit.Key) {
	if h.id != "" && h.id != id {
		h.former[h.id] = true
	}
	h.announced, h.id = v, id
	maps.Copy(h.created, k.Created)
}

// Saw records the state of a key that is still the announced one.
func (h *History) Saw(k transit.Key) { maps.Copy(h.created, k.Created) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
