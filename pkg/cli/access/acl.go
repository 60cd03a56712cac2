package access

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
)

// PolicyRule is a rule of a policy in a Vault.
type PolicyRule struct {
	Policy       string
	Path         string
	Capabilities []string
	// Bounds says that the rule limits parameters or wrapping, which are not checked.
	Bounds bool
}

// ParsePolicy reads a policy as Vault does.
func ParsePolicy(name, text string) ([]PolicyRule, error) {
	root, err := hcl.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading policy %q: %w", name, err)
	}
	list, ok := root.Node.(*ast.ObjectList)
	if !ok {
		return nil, fmt.Errorf("reading policy %q: it is not a list of paths", name)
	}
	var rules []PolicyRule
	for _, item := range list.Filter("path").Items {
		if len(item.Keys) == 0 {
			return nil, fmt.Errorf("reading policy %q: a path has no name", name)
		}
		path, ok := item.Keys[0].Token.Value().(string)
		if !ok {
			return nil, fmt.Errorf("reading policy %q: the name of a path is not a string", name)
		}
		var body map[string]any
		if err := hcl.DecodeObject(&body, item.Val); err != nil {
			return nil, fmt.Errorf("reading policy %q, path %q: %w", name, path, err)
		}
		rules = append(rules, policyRuleOf(name, strings.TrimPrefix(path, "/"), body))
	}
	return rules, nil
}

func policyRuleOf(policy, path string, body map[string]any) PolicyRule {
	h := PolicyRule{Policy: policy, Path: path}
	for key, value := range body {
		switch key {
		case "capabilities":
			words, _ := value.([]any)
			for _, w := range words {
				h.Capabilities = append(h.Capabilities, fmt.Sprint(w))
			}
		case "policy": // the form before Vault 0.5
			h.Capabilities = append(h.Capabilities, oldPolicies()[fmt.Sprint(value)]...)
		case "comment":
		default:
			h.Bounds = true
		}
	}
	slices.Sort(h.Capabilities)
	h.Capabilities = slices.Compact(h.Capabilities)
	if slices.Contains(h.Capabilities, deny) {
		h.Capabilities = []string{deny}
	}
	return h
}

const deny = "deny"

func oldPolicies() map[string][]string {
	write := []string{"create", "read", "update", "delete", "list"}
	return map[string][]string{deny: {deny}, "read": {"read", "list"}, "write": write, "sudo": append(slices.Clone(write), "sudo")}
}

// template matches what Vault fills in for the owner of a token.
var template = regexp.MustCompile(`\{\{\s*identity\.entity\.aliases\.[^.}]+\.metadata\.(service_account_name|service_account_namespace)\s*\}\}`)

// For fills in the templates of rules for a service account. It returns separately what it cannot
// fill in.
func For(rules []PolicyRule, a Account) (filled, open []PolicyRule) {
	for _, h := range rules {
		h.Path = template.ReplaceAllStringFunc(h.Path, func(text string) string {
			if strings.Contains(text, "service_account_namespace") {
				return a.Namespace
			}
			return a.Name
		})
		if strings.Contains(h.Path, "{{") {
			open = append(open, h)
			continue
		}
		filled = append(filled, h)
	}
	return filled, open
}

// MayMatch reports whether a pattern with templates can match a path, if each template is filled in
// with the best of words.
func MayMatch(pattern, path string) bool {
	elements := strings.Split(pattern, "/")
	for i, e := range elements {
		if strings.Contains(e, "{{") {
			elements[i] = "+"
			if i == len(elements)-1 && strings.HasSuffix(e, "*") {
				elements[i] = "*"
			}
		}
	}
	return Matches(strings.Join(elements, "/"), path)
}

// Granted are the rules that decide about a path, and what they grant together: those of the
// pattern with the highest priority in Vault's order, of all policies. The path of a list ends with
// a slash.
func Granted(rules []PolicyRule, path string, lists bool) (capabilities []string, by []PolicyRule) {
	tries := []string{path}
	if short := strings.TrimSuffix(path, "/"); lists && short != path {
		tries = []string{path, short}
	}
	for _, p := range tries {
		if capabilities, by = together(rules, p); len(by) > 0 {
			return capabilities, by
		}
	}
	slices.Reverse(tries) // of wildcards the path without the slash comes first
	for _, p := range tries {
		if best := firstWildcard(rules, p); best != "" {
			return together(rules, best)
		}
	}
	return nil, nil
}

// together merges the rules of one pattern.
func together(rules []PolicyRule, pattern string) (capabilities []string, by []PolicyRule) {
	for _, h := range rules {
		if h.Path == pattern {
			by = append(by, h)
			capabilities = append(capabilities, h.Capabilities...)
		}
	}
	if slices.Contains(capabilities, deny) {
		return []string{deny}, by
	}
	slices.Sort(capabilities)
	return slices.Compact(capabilities), by
}

// firstWildcard is the pattern with wildcards that decides about a path; empty if none matches.
// https://developer.hashicorp.com/vault/docs/concepts/policies has the order: the one whose first
// wildcard comes later, the one that does not end with a star, the one with fewer pluses, the
// longer one, the one that is later in the alphabet.
func firstWildcard(rules []PolicyRule, path string) string {
	best := ""
	for _, h := range rules {
		if IsWildcard(h.Path) && Matches(h.Path, path) && (best == "" || precedes(h.Path, best)) {
			best = h.Path
		}
	}
	return best
}

func precedes(a, b string) bool {
	star := func(p string) int {
		if strings.HasSuffix(p, "*") {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(firstOf(a), firstOf(b)), cmp.Compare(star(b), star(a)), cmp.Compare(pluses(b), pluses(a)),
		cmp.Compare(len(a)-star(a), len(b)-star(b)), cmp.Compare(a, b)) > 0
}

// firstOf is the position of the first wildcard of a pattern.
func firstOf(pattern string) int {
	at := 0
	for _, e := range strings.Split(pattern, "/") {
		if e == "+" {
			return at
		}
		at += len(e) + 1
	}
	return len(strings.TrimSuffix(pattern, "*"))
}

func pluses(pattern string) int {
	n := 0
	for _, e := range strings.Split(pattern, "/") {
		if e == "+" {
			n++
		}
	}
	return n
}

// Matches reports whether a pattern matches a path.
func Matches(pattern, path string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	want, have := strings.Split(prefix, "/"), strings.Split(path, "/")
	if len(have) < len(want) || !open && len(have) != len(want) {
		return false
	}
	for i, w := range want {
		last := open && i == len(want)-1
		switch {
		case w == "+", w == have[i]:
		case last && strings.HasPrefix(have[i], w):
		default:
			return false
		}
	}
	return true
}
