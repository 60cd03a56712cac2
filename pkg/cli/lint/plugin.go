package lint

import (
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// known is a provider plugin whose documentation lists its parameters.
type known struct {
	name string
	// own are parameters that only this provider has, shared those that others have too.
	own, shared []string
	// list is the parameter with the YAML list of what to mount.
	list string
	// needs are the parameters that every class must have.
	needs []string
}

// plugins are those of the documentation's examples (docs/plugins-examples.md).
func plugins() []known {
	return []known{
		{
			name: "aws", own: []string{"region", "failoverRegion", "pathTranslation", "preferredAddressType"},
			shared: []string{"usePodIdentity"}, list: keyObjects, needs: []string{keyObjects},
		},
		{
			name:   "azure",
			own:    []string{"keyvaultName", "cloudName", "cloudEnvFileName", "tenantId", "tenantID", "useVMManagedIdentity", "userAssignedIdentityID", "clientID"},
			shared: []string{"usePodIdentity"}, list: keyObjects, needs: []string{"keyvaultName", keyObjects},
		},
		{name: "gcp", shared: []string{"secrets", "auth"}, list: "secrets", needs: []string{"secrets"}},
	}
}

// plugin reports what can be known about a class of a plugin: names that are near to known ones,
// missing parameters, and a list that is no YAML. Other unknown names may be new parameters and are
// no mistake.
func (l *linter) plugin(c *linted, parsed *class.Class) {
	names := []string{vault.NameVault, vault.NameOpenBao, akeyless.Name}
	for _, p := range plugins() {
		names = append(names, p.name)
		if p.name == parsed.Provider {
			l.parameters(c, parsed, p)
			return
		}
	}
	f := finding.Finding{Message: fmt.Sprintf("spec.provider: %q is not built into Mayfly, so its parameters are not checked", parsed.Provider)}
	if like := class.Near(parsed.Provider, names); like != "" {
		f.Level, f.Remedy = finding.Warning, fmt.Sprintf("did you mean %q?", like)
	}
	l.at(c.Object, c.locate("spec.provider", ""), finding.CodePlugin, f)
}

func (l *linter) parameters(c *linted, parsed *class.Class, p known) {
	l.at(c.Object, c.locate("spec.provider", ""), finding.CodePlugin, finding.Finding{
		Message: fmt.Sprintf("spec.provider: %q is a plugin, so only the names of its parameters are checked", parsed.Provider),
	})
	say := func(where, message, remedy string) {
		l.at(c.Object, c.locate(where, ""), finding.CodePlugin, finding.Finding{Level: finding.Warning, Message: where + message, Remedy: remedy})
	}
	foreign := l.foreign(c, parsed)
	every := append(slices.Concat(p.own, p.shared), p.list)
	given := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(parsed.Parameters)) {
		where := parameterField + key
		if slices.Contains(every, key) || slices.Contains(foreign, where) || class.Near(key, class.OwnKeys()) != "" {
			given[key] = true
			continue
		}
		if like := class.Near(key, every); like != "" {
			given[like] = true
			say(where, fmt.Sprintf(": provider %s has no such parameter", p.name), fmt.Sprintf("did you mean %s?", like))
		}
	}
	for _, key := range p.needs {
		if !given[key] {
			say(parameterField+key, fmt.Sprintf(": is missing, and provider %s needs it", p.name), "add it")
		}
	}
	var list yaml.Node
	if err := yaml.Unmarshal([]byte(parsed.Parameters[p.list]), &list); err != nil && class.CheckYAML([]byte(parsed.Parameters[p.list]), maxList) == nil {
		say(parameterField+p.list, ": is not YAML: "+err.Error(), "correct the YAML")
	}
}

// maxList bounds what the YAML parser allocates for a list.
const maxList = 40_000
