// Package access computes the least policies and roles for what classes need from a Vault, and what
// a Vault's own policies grant.
package access

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// The kinds of auth methods that a pod can log in at.
const (
	Kubernetes = "kubernetes"
	JWT        = "jwt"
)

// Account is a service account.
type Account struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String is namespace/name.
func (a Account) String() string { return a.Namespace + "/" + a.Name }

// Asked is what one class needs, and the accounts that mount it.
type Asked struct {
	Class    class.Ref
	Need     vault.Need
	Accounts []Account
}

// Options change the plan.
type Options struct {
	// NoDefaultPolicy plans for tokens without Vault's default policy, which has
	// the rights for the token itself and its leases.
	NoDefaultPolicy bool
	// Versions adds the right to see the versions of KV version 2 secrets.
	Versions bool
	// Method is the kind of the auth method; empty to derive it from its path.
	Method string
	// APIAudience is the API server's own audience, which classes call apiserver; empty if unknown.
	APIAudience string
}

// Grant is a role of an auth method, and the policy of its tokens.
type Grant struct {
	Address   string      `json:"address"`
	Namespace string      `json:"namespace,omitempty"`
	Mount     string      `json:"mount"`
	Method    string      `json:"method"`
	Role      string      `json:"role"`
	Audience  string      `json:"audience,omitempty"`
	Accounts  []Account   `json:"serviceAccounts,omitempty"`
	Policy    Policy      `json:"policy"`
	NoDefault bool        `json:"noDefaultPolicy,omitempty"`
	Classes   []class.Ref `json:"-"`
	// For names the classes that need it.
	For []string `json:"classes"`
}

// Policy is an ACL policy.
type Policy struct {
	Name  string `json:"name"`
	Rules []Rule `json:"rules"`
}

// Rule is one path of a policy.
type Rule struct {
	// Path is the pattern in the policy, and For the path that it is for.
	Path         string        `json:"path"`
	For          string        `json:"for"`
	Capabilities []string      `json:"capabilities"`
	Classes      []class.Ref   `json:"-"`
	Purpose      vault.Purpose `json:"purpose"`
}

// Exact reports whether the rule matches only its own path.
func (r Rule) Exact() bool { return r.Path == r.For && !IsWildcard(r.Path) }

// IsWildcard reports whether a pattern matches more than one path.
func IsWildcard(pattern string) bool {
	return strings.HasSuffix(pattern, "*") || slices.Contains(strings.Split(pattern, "/"), "+")
}

// Plan makes the least grants for some classes, sorted, and reports grants that are more or less
// than the classes need.
func Plan(asked []Asked, o Options, report *finding.Report) []Grant {
	var grants []*Grant
	for _, a := range asked {
		l := a.Need.Login
		i := slices.IndexFunc(grants, func(g *Grant) bool {
			return g.Address == l.Address && g.Namespace == l.Namespace && g.Mount == l.Mount && g.Role == l.Role
		})
		if i < 0 {
			i = len(grants)
			grants = append(grants, &Grant{
				Address: l.Address, Namespace: l.Namespace, Mount: l.Mount, Method: MethodOf(l.Mount, o.Method), Role: l.Role,
				Audience: audience(l.Audience, o), NoDefault: o.NoDefaultPolicy,
			})
		}
		grants[i].take(a, o, report)
	}
	slices.SortFunc(grants, func(a, b *Grant) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Mount, b.Mount), cmp.Compare(a.Role, b.Role))
	})
	nameAll(grants)
	out := make([]Grant, 0, len(grants))
	for _, g := range grants {
		g.finish()
		g.checkGrant(report)
		out = append(out, *g)
	}
	return out
}

// MethodOf is the kind of an auth method, derived from its path if it is not given.
func MethodOf(mount, given string) string {
	if given == "" && strings.Contains(strings.ToLower(mount), JWT) {
		return JWT
	}
	return cmp.Or(given, Kubernetes)
}

// audience is the audience of the token that kubelet passes; empty if unknown.
func audience(of string, o Options) string {
	if of == identity.APIServer {
		return o.APIAudience
	}
	return of
}

func (g *Grant) take(a Asked, o Options, report *finding.Report) {
	g.Classes = append(g.Classes, a.Class)
	for _, account := range a.Accounts {
		if !slices.Contains(g.Accounts, account) {
			g.Accounts = append(g.Accounts, account)
		}
	}
	for _, r := range a.Need.Rights {
		switch r.Purpose {
		case vault.Token, vault.Lease:
			if !o.NoDefaultPolicy {
				continue
			}
		case vault.Version:
			if !o.Versions {
				continue
			}
		}
		g.Policy.add(r, a.Class)
	}
	if other := audience(a.Need.Audience, o); other != g.Audience {
		report.Add(finding.CodePolicyAudience, finding.Finding{
			Object:  ObjectOf(a.Class),
			Message: fmt.Sprintf("logs in as role %q with a token for audience %q, and %s with one for %q: a role accepts one audience", g.Role, other, g.Classes[0], g.Audience),
			Remedy:  "give both classes the same spec.parameters.audience, or separate roles",
		})
	}
}

// ObjectOf is a class as the object of a finding.
func ObjectOf(c class.Ref) finding.Object {
	return finding.Object{Kind: "SecretProviderClass", Namespace: c.Namespace, Name: c.Name}
}

func (p *Policy) add(r vault.Right, from class.Ref) {
	i := slices.IndexFunc(p.Rules, func(have Rule) bool { return have.For == r.Path })
	if i < 0 {
		i = len(p.Rules)
		p.Rules = append(p.Rules, Rule{Path: Pattern(r.Path), For: r.Path, Purpose: r.Purpose})
	}
	rule := &p.Rules[i]
	if !slices.Contains(rule.Capabilities, r.Capability) {
		rule.Capabilities = append(rule.Capabilities, r.Capability)
	}
	if !slices.Contains(rule.Classes, from) {
		rule.Classes = append(rule.Classes, from)
	}
	if r.Purpose == vault.Serve {
		rule.Purpose = vault.Serve
	}
}

// finish sorts everything, so that the result does not depend on the order of the classes.
func (g *Grant) finish() {
	byName := func(a, b class.Ref) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}
	slices.SortFunc(g.Classes, byName)
	g.For = namesOf(g.Classes)
	slices.SortFunc(g.Accounts, func(a, b Account) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(g.Policy.Rules, func(a, b Rule) int { return cmp.Compare(a.For, b.For) })
	for i := range g.Policy.Rules {
		slices.Sort(g.Policy.Rules[i].Capabilities)
		slices.SortFunc(g.Policy.Rules[i].Classes, byName)
	}
}

func namesOf(classes []class.Ref) []string {
	names := make([]string, len(classes))
	for i, c := range classes {
		names[i] = c.String()
	}
	return names
}

// checkGrant reports grants that differ from what the class needs.
func (g *Grant) checkGrant(report *finding.Report) {
	for _, r := range g.Policy.Rules {
		if !r.Exact() {
			report.Add(finding.CodePolicyInexact, finding.Finding{
				Object:  ObjectOf(r.Classes[0]),
				Message: fmt.Sprintf("a policy cannot match the path %q only, so the rule is for %q", r.For, r.Path),
				Remedy:  "store the secret at a path without an element +, without {{ and }}, and without * at its end",
			})
		}
	}
	switch {
	case len(g.Accounts) == 0:
		report.Add(finding.CodePolicyNoAccount, finding.Finding{
			Object:  ObjectOf(g.Classes[0]),
			Message: fmt.Sprintf("no pod that mounts it was found, so the service accounts of role %q are unknown, and the role is omitted", g.Role),
		})
	case g.Method == Kubernetes && len(g.product()) > len(g.Accounts):
		var more []string
		for _, a := range g.product() {
			if !slices.Contains(g.Accounts, a) {
				more = append(more, a.String())
			}
		}
		report.Add(finding.CodePolicyMoreAccounts, finding.Finding{
			Object:  ObjectOf(g.Classes[0]),
			Message: fmt.Sprintf("role %q has separate lists of names and namespaces, so it also accepts %s", g.Role, strings.Join(more, ", ")),
			Remedy:  "give the classes of each namespace a role of their own, or use the jwt method, whose roles name both together",
		})
	}
	if g.Audience == "" {
		report.Add(finding.CodePolicyAudience, finding.Finding{
			Object:  ObjectOf(g.Classes[0]),
			Level:   finding.Warning,
			Message: fmt.Sprintf("audience apiserver is the API server's own, which this command does not know, so role %q has none", g.Role),
			Remedy:  "pass the API server's audience with --api-audience, by default its issuer: kubectl get --raw /.well-known/openid-configuration",
		})
	}
}

// names and namespaces are the two lists of a role of the kubernetes method.
func (g *Grant) names() (names, namespaces []string) {
	for _, a := range g.Accounts {
		names, namespaces = append(names, a.Name), append(namespaces, a.Namespace)
	}
	slices.Sort(names)
	slices.Sort(namespaces)
	return slices.Compact(names), slices.Compact(namespaces)
}

// product is every account that the two lists admit.
func (g *Grant) product() []Account {
	names, namespaces := g.names()
	var all []Account
	for _, namespace := range namespaces {
		for _, name := range names {
			all = append(all, Account{namespace, name})
		}
	}
	return all
}

// nameAll names the policies: by the role and, if roles of several mounts have the same name, by
// the mount too. So it does not overwrite an existing policy with the role's own name.
func nameAll(grants []*Grant) {
	taken := map[string]bool{}
	for _, g := range grants {
		at := func(name string) string { return strings.Join([]string{g.Address, g.Namespace, name}, "\n") }
		name := "mayfly-" + slug(g.Role)
		if taken[at(name)] {
			name = "mayfly-" + slug(g.Mount) + "-" + slug(g.Role)
		}
		for n, base := 2, name; taken[at(name)]; n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		taken[at(name)] = true
		g.Policy.Name = name
	}
}

// slug is a text as part of a policy's name.
func slug(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '-'
	}, strings.ToLower(text))
}

// Pattern is the narrowest pattern of a policy that matches a path. In a policy "+" matches any
// element, "*" at the end matches anything, and braces are a template; there is no way to escape
// them.
func Pattern(path string) string {
	elements := strings.Split(path, "/")
	for i, e := range elements {
		if strings.Contains(e, "{{") || strings.Contains(e, "}}") || strings.Contains(e, "+*") {
			elements[i] = "+"
		}
	}
	return strings.Join(elements, "/")
}
