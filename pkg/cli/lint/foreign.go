package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// ownerOf is the provider that a parameter belongs to by its name; empty if the name does not say.
// The parameters of plugins are those in their documentation.
func ownerOf(key string) string {
	switch {
	case strings.HasPrefix(key, "vault"):
		return vault.NameVault
	case strings.HasPrefix(key, "bao"), strings.HasPrefix(key, "openbao"):
		return vault.NameOpenBao
	case strings.HasPrefix(key, "akeyless"):
		return akeyless.Name
	}
	for _, p := range plugins() {
		if slices.Contains(p.own, key) {
			return p.name
		}
	}
	return ""
}

// foreign reports the parameters of other providers, and returns their fields.
func (l *linter) foreign(c *linted, parsed *class.Class) []string {
	var fields []string
	for _, key := range slices.Sorted(maps.Keys(parsed.Parameters)) {
		owner := ownerOf(key)
		if owner == "" || owner == parsed.Provider || owner == vault.NameVault && parsed.Provider == vault.NameOpenBao {
			continue
		}
		where := parameterField + key
		fields = append(fields, where)
		l.at(c.Object, c.locate(where, ""), finding.CodeOtherProvider, finding.Finding{
			Message: fmt.Sprintf("%s is a parameter of provider %s, and the class is of provider %s, which ignores it", where, owner, parsed.Provider),
		})
	}
	return fields
}
