package finding

import (
	"slices"
	"strings"
	"sync"
)

// Rule is common to every finding of a code. A code never changes its meaning; docs/findings.md
// explains each.
type Rule struct {
	Code  string
	Level Level
	// Title is a few words, Remedy says what to do unless the finding has its own.
	Title, Remedy string
}

// DocsPage has a section for each code.
const DocsPage = "https://github.com/mayfly-csi/mayfly/blob/main/docs/findings.md"

// Docs is the address of the section about the rule.
func (r Rule) Docs() string { return DocsPage + "#" + strings.ToLower(r.Code) }

var rules = sync.OnceValue(func() []Rule {
	return slices.Concat(lintRules(), clusterRules(), explainRules(), tryRules(), policyRules(), whoRules(), doctorRules(), statusRules())
})

// Rules are all of them, in the order of their codes. Callers must not change the list.
func Rules() []Rule { return rules() }

// RuleOf finds the rule of a code, which must be one of Rules.
func RuleOf(code string) Rule {
	for _, r := range rules() {
		if r.Code == code {
			return r
		}
	}
	panic("no rule " + code)
}
