package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// checked is one role to compare with the store.
type checked struct {
	*command
	store *store
	grant access.Grant
	data  map[string]any // of the role
	// rules are those of the role's policies, without the default policy's; full includes those.
	rules, full []access.PolicyRule
	// unseen says that a policy could not be read, so a missing right may be in it.
	unseen bool
}

// compare reads each role and its policies.
func (c *command) compare(ctx context.Context, grants []access.Grant, rules []access.Rules) {
	for _, g := range grants {
		k := &checked{command: c, grant: g}
		var err error
		if k.store, err = c.newStore(g); err != nil {
			k.notSeen(k.rolePath(), err)
			continue
		}
		k.run(ctx)
	}
	c.compareAkeyless(ctx, rules)
}

func (k *checked) rolePath() string { return "auth/" + k.grant.Mount + "/role/" + k.grant.Role }

// about is the object of the findings.
func (k *checked) about() finding.Object { return access.ObjectOf(k.grant.Classes[0]) }

func (k *checked) add(code string, f finding.Finding) {
	f.Object = k.about()
	k.report.Add(code, f)
}

// notSeen reports what the store did not answer.
func (k *checked) notSeen(what string, err error) {
	k.report.Check(what, finding.Unknown, "")
	k.add(finding.CodeNotReadable, finding.Finding{Message: what + " could not be read: " + err.Error(), Remedy: "use a Vault token that may read it"})
}

func (k *checked) run(ctx context.Context) {
	role := k.rolePath()
	var err error
	if k.data, err = k.store.read(ctx, role); err != nil {
		k.notSeen(role, err)
		return
	}
	if k.data == nil {
		k.report.Check(role, finding.Bad, "there is none")
		k.add(finding.CodePolicyNoRole, finding.Finding{Message: "there is no " + role})
		return
	}
	if text(k.data, "role_type") != "" {
		k.grant.Method = access.JWT
	}
	k.checkRole()
	k.readPolicies(ctx)
	for _, r := range k.grant.Policy.Rules {
		k.checkRight(r)
	}
	k.checkRules()
}

// checkRole checks which accounts the role admits.
func (k *checked) checkRole() {
	before := len(k.report.Findings)
	if k.grant.Method == access.JWT {
		k.checkJWT()
	} else {
		k.checkKubernetes()
	}
	state := finding.Good
	if len(k.report.Findings) > before {
		state = finding.Bad
	}
	k.report.Check(k.rolePath(), state, "")
}

func (k *checked) notBound(format string, args ...any) {
	k.add(finding.CodePolicyNotBound, finding.Finding{Message: k.rolePath() + " " + fmt.Sprintf(format, args...)})
}

func (k *checked) wideRole(format string, args ...any) {
	k.add(finding.CodeRoleTooWide, finding.Finding{Message: k.rolePath() + " " + fmt.Sprintf(format, args...)})
}

func (k *checked) checkKubernetes() {
	names, namespaces := words(k.data, "bound_service_account_names"), words(k.data, "bound_service_account_namespaces")
	selector := text(k.data, "bound_service_account_namespace_selector")
	for _, a := range k.grant.Accounts {
		if !anyGlob(names, a.Name) {
			k.notBound("does not accept service account %s: bound_service_account_names is %q", a, names)
		}
		if !anyGlob(namespaces, a.Namespace) && selector == "" {
			k.notBound("does not accept service account %s: bound_service_account_namespaces is %q", a, namespaces)
		}
	}
	has := func(a access.Account, name bool) string {
		if name {
			return a.Name
		}
		return a.Namespace
	}
	for i, list := range [][]string{names, namespaces} {
		for _, word := range list {
			used := slices.ContainsFunc(k.grant.Accounts, func(a access.Account) bool { return has(a, i == 0) == word })
			if len(k.grant.Accounts) > 0 && !used {
				k.wideRole("has %q in %s, which no pod that mounts the classes needs", word, []string{"bound_service_account_names", "bound_service_account_namespaces"}[i])
			}
		}
	}
	k.checkAudience(words(k.data, "audience"))
}

func (k *checked) checkAudience(bound []string) {
	switch want := k.grant.Audience; {
	case len(bound) == 0 && k.grant.Method == access.JWT:
		k.notBound("has no bound_audiences, so it refuses tokens that have one")
	case len(bound) == 0:
		k.wideRole("has no audience, so it also accepts tokens for other services")
	case want != "" && !slices.Contains(bound, want):
		k.notBound("requires audience %q, and the classes log in with %q", bound, want)
	}
}

func (k *checked) checkJWT() {
	subject, claims := text(k.data, "bound_subject"), map[string]any{}
	if m, ok := k.data["bound_claims"].(map[string]any); ok {
		claims = m
	}
	glob := text(k.data, "bound_claims_type") == "glob"
	for _, a := range k.grant.Accounts {
		known := map[string]string{
			"sub": "system:serviceaccount:" + a.Namespace + ":" + a.Name, "/kubernetes.io/namespace": a.Namespace, "/kubernetes.io/serviceaccount/name": a.Name,
		}
		if subject != "" && subject != known["sub"] {
			k.notBound("does not accept service account %s: bound_subject is %q", a, subject)
		}
		for claim := range claims {
			want := words(claims, claim)
			have, judged := known[claim]
			if judged && !slices.Contains(want, have) && !(glob && anyGlob(want, have)) {
				k.notBound("does not accept service account %s: bound_claims of %q is %q", a, claim, want)
			}
		}
	}
	bound := subject != ""
	for _, claim := range []string{"sub", "/kubernetes.io/serviceaccount/name", "/kubernetes.io/namespace"} {
		bound = bound || len(words(claims, claim)) > 0
	}
	if !bound {
		k.wideRole("binds neither a subject nor a claim of the service account, so it accepts every token of the issuer for its audience")
	}
	k.checkAudience(words(k.data, "bound_audiences"))
}

// anyGlob reports whether a word matches one of a list, in which a star at the beginning or the end
// matches anything.
func anyGlob(list []string, word string) bool {
	return slices.ContainsFunc(list, func(pattern string) bool {
		core := strings.Trim(pattern, "*")
		before, after := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
		switch {
		case before && after:
			return strings.Contains(word, core)
		case before:
			return strings.HasSuffix(word, core)
		case after:
			return strings.HasPrefix(word, core)
		}
		return pattern == word
	})
}

const defaultPolicy = "default"

func (k *checked) readPolicies(ctx context.Context) {
	names := append(words(k.data, "token_policies"), words(k.data, "policies")...)
	if off, _ := k.data["token_no_default_policy"].(bool); !off {
		names = append(names, defaultPolicy)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == "root" {
			k.add(finding.CodePolicyTooWide, finding.Finding{Level: finding.Error, Message: k.rolePath() + " has the policy root, which may do everything"})
			k.unseen = true
			continue
		}
		data, err := k.store.read(ctx, "sys/policies/acl/"+name)
		if err == nil && data == nil {
			k.add(finding.CodePolicyMissing, finding.Finding{Level: finding.Warning, Message: fmt.Sprintf("%s has the policy %q, which does not exist", k.rolePath(), name)})
			continue
		}
		var rules []access.PolicyRule
		if err == nil {
			rules, err = access.ParsePolicy(name, text(data, "policy"))
		}
		if err != nil {
			k.unseen = true
			k.notSeen(fmt.Sprintf("policy %q", name), err)
			continue
		}
		k.full = append(k.full, rules...)
		if name != defaultPolicy {
			k.rules = append(k.rules, rules...)
		}
	}
}

// views are the rules for each service account.
func (k *checked) views(rules []access.PolicyRule) (views [][]access.PolicyRule, open []access.PolicyRule) {
	accounts := k.grant.Accounts
	if len(accounts) == 0 {
		accounts = []access.Account{{}}
	}
	for _, a := range accounts {
		filled, left := access.For(rules, a)
		views, open = append(views, filled), append(open, left...)
	}
	return views, open
}

// checkRight reports whether the rights for one path are granted.
func (k *checked) checkRight(r access.Rule) {
	views, left := k.views(k.full)
	open := slices.ContainsFunc(left, func(h access.PolicyRule) bool { return access.MayMatch(h.Path, r.For) })
	var missing []string
	for _, rules := range views {
		have, _ := access.Granted(rules, r.For, slices.Contains(r.Capabilities, "list"))
		for _, c := range r.Capabilities {
			if !slices.Contains(have, c) && !slices.Contains(missing, c) {
				missing = append(missing, c)
			}
		}
	}
	title := fmt.Sprintf("%s: %s on %s", k.grant.Role, strings.Join(r.Capabilities, ", "), r.For)
	switch {
	case len(missing) == 0:
		k.report.Check(title, finding.Good, "")
		return
	case r.Purpose == vault.Version: // the class works without it
		k.report.Check(title, finding.Skipped, "not granted, and not needed: a refresh reads the secret")
		return
	case r.Purpose == vault.Public:
		k.report.Check(title, finding.Skipped, "not granted, and not needed for the engine that the path looks like")
		return
	case k.unseen || open:
		k.report.Check(title, finding.Unknown, "it may be in a policy that could not be checked")
		if open {
			k.add(finding.CodeNotReadable, finding.Finding{Message: "a policy has a template whose value is unknown here, so whether it grants " + title + " is not known", Remedy: "run kubectl mayfly try"})
		}
		return
	}
	k.report.Check(title, finding.Bad, "")
	f := finding.Finding{Message: fmt.Sprintf("the policies of role %q do not grant %s on %q", k.grant.Role, strings.Join(missing, ", "), r.For)}
	if r.Purpose != vault.Serve {
		f.Level = finding.Warning
		f.Message += ", so " + without(r.Purpose)
		f.Remedy = "keep the role's default policy, or add the path to a policy of the role"
	}
	k.add(finding.CodePolicyMissing, f)
}

// without is the effect of a missing right that a pod can start without.
func without(p vault.Purpose) string {
	if p == vault.Lease {
		return "leases are replaced instead of renewed"
	}
	return "the Vault token is replaced instead of renewed, and remains valid after the pod is deleted"
}

// checkRules reports rules that grant what no class needs.
func (k *checked) checkRules() {
	views, _ := k.views(k.rules)
	for _, rules := range views {
		for _, h := range rules {
			k.checkRule(rules, h)
		}
	}
}

func (k *checked) checkRule(rules []access.PolicyRule, h access.PolicyRule) {
	if slices.Contains(h.Capabilities, "deny") {
		return
	}
	var needed, paths []string
	for _, r := range k.grant.Policy.Rules {
		_, by := access.Granted(rules, r.For, slices.Contains(r.Capabilities, "list"))
		if slices.ContainsFunc(by, func(b access.PolicyRule) bool { return b.Path == h.Path }) {
			needed = append(needed, r.Capabilities...)
			paths = append(paths, r.For)
		}
	}
	var more []string
	for _, c := range h.Capabilities {
		if !slices.Contains(needed, c) {
			more = append(more, c)
		}
	}
	what := func(capabilities []string) string {
		return fmt.Sprintf("policy %q grants %s on %q", h.Policy, strings.Join(capabilities, ", "), h.Path)
	}
	switch {
	case len(paths) == 0:
		k.add(finding.CodePolicyTooWide, finding.Finding{Message: what(h.Capabilities) + ", which no class needs"})
	case len(more) > 0:
		k.add(finding.CodePolicyTooWide, finding.Finding{Message: what(more) + ", and the classes need " + strings.Join(needed, ", ") + " alone there"})
	case access.IsWildcard(h.Path) && !slices.Contains(paths, h.Path):
		k.add(finding.CodePolicyTooWide, finding.Finding{
			Level: finding.Info, Message: what(h.Capabilities) + ", and the classes need it on " + strings.Join(paths, ", ") + " alone",
			Remedy: "list the paths themselves, unless you plan more classes of this role",
		})
	}
}
