package access

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
)

// AskedOfAkeyless is what one class needs, and the accounts that mount it.
type AskedOfAkeyless struct {
	Class    class.Ref
	Need     akeyless.Need
	Accounts []Account
}

// Rules are what an Akeyless role must grant the service accounts of an auth method.
type Rules struct {
	Gateway  string      `json:"gateway"`
	AccessID string      `json:"accessID"`
	Role     string      `json:"role"`
	Accounts []Account   `json:"serviceAccounts,omitempty"`
	Items    []ItemRule  `json:"items"`
	Classes  []class.Ref `json:"-"`
	// For names the classes that need it.
	For []string `json:"classes"`
}

// ItemRule is what a role may do with one item.
type ItemRule struct {
	Path         string   `json:"path"`
	Capabilities []string `json:"capabilities"`
}

// PlanAkeyless makes the least rules: a role for each set of service accounts
// of an auth method, since a role gives the same to all that are tied to it.
func PlanAkeyless(asked []AskedOfAkeyless, versions bool) []Rules {
	var all []*Rules
	for _, a := range asked {
		accounts := slices.Clone(a.Accounts)
		slices.SortFunc(accounts, byAccount)
		i := slices.IndexFunc(all, func(r *Rules) bool {
			return r.Gateway == a.Need.Gateway && r.AccessID == a.Need.AccessID && slices.Equal(r.Accounts, accounts) && len(accounts) > 0
		})
		if i < 0 {
			i = len(all)
			all = append(all, &Rules{Gateway: a.Need.Gateway, AccessID: a.Need.AccessID, Accounts: accounts})
		}
		all[i].take(a, versions)
	}
	out := make([]Rules, 0, len(all))
	for _, r := range all {
		r.finish()
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Rules) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.AccessID, b.AccessID), cmp.Compare(a.Role, b.Role))
	})
	return out
}

func byAccount(a, b Account) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (r *Rules) take(a AskedOfAkeyless, versions bool) {
	r.Classes = append(r.Classes, a.Class)
	for _, right := range a.Need.Rights {
		words := slices.Clone(right.Capabilities)
		if versions {
			words = append(words, right.Versions...)
		}
		i := slices.IndexFunc(r.Items, func(have ItemRule) bool { return have.Path == right.Item })
		if i < 0 {
			i = len(r.Items)
			r.Items = append(r.Items, ItemRule{Path: right.Item})
		}
		for _, w := range words {
			if !slices.Contains(r.Items[i].Capabilities, w) {
				r.Items[i].Capabilities = append(r.Items[i].Capabilities, w)
			}
		}
	}
}

func (r *Rules) finish() {
	slices.SortFunc(r.Classes, func(a, b class.Ref) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	r.For = namesOf(r.Classes)
	slices.SortFunc(r.Items, func(a, b ItemRule) int { return cmp.Compare(a.Path, b.Path) })
	for i := range r.Items {
		slices.Sort(r.Items[i].Capabilities)
	}
	r.Role = "/" + r.Classes[0].Namespace + "/" + r.Classes[0].Name
	if len(r.Accounts) > 0 {
		r.Role = "/" + r.Accounts[0].Namespace + "/" + r.Accounts[0].Name
	}
}

// AkeylessCommands prints the rules as commands of Akeyless' own program, as comments for readers
// of HCL.
func AkeylessCommands(all []Rules, comment bool) string {
	var b strings.Builder
	for i, r := range all {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString("# " + finding.Printable(fmt.Sprintf("%s: a role for access ID %s", r.Gateway, r.AccessID)) + "\n")
		if comment {
			b.WriteString("# Akeyless has its own commands for it:\n")
		}
		for _, line := range r.Commands() {
			if comment {
				line = "#   " + line
			}
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// Commands create the role, associate it with the auth method for its service accounts, and add a
// rule for each item. A class does not contain the name of the auth method.
func (r Rules) Commands() []string {
	lines := []string{"akeyless create-role --name " + QuoteShell(r.Role)}
	for _, a := range r.Accounts {
		lines = append(lines, fmt.Sprintf("akeyless assoc-role-am --role-name %s --am-name \"$AUTH_METHOD\" --sub-claims %s",
			QuoteShell(r.Role), QuoteShell("namespace="+a.Namespace+",service_account_name="+a.Name)))
	}
	for _, item := range r.Items {
		lines = append(lines, r.RuleCommand(item))
	}
	return lines
}

// RuleCommand adds the rule for one item to the role.
func (r Rules) RuleCommand(item ItemRule) string {
	line := "akeyless set-role-rule --role-name " + QuoteShell(r.Role) + " --path " + QuoteShell(item.Path)
	for _, c := range item.Capabilities {
		line += " --capability " + c
	}
	return line
}
