package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Digest returns a hash of a list of versions, which does not depend on their order. The
// length before each string makes the input unambiguous.
func Digest(versions []Version) string {
	sorted := slices.Clone(versions)
	slices.SortFunc(sorted, func(a, b Version) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return strings.Compare(a.Version, b.Version)
	})
	h := sha256.New()
	for _, v := range sorted {
		fmt.Fprintf(h, "%d %s %d %s ", len(v.ID), v.ID, len(v.Version), v.Version)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
