package access

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// HCL is a policy in Vault's own language.
func (p Policy) HCL() string {
	var b strings.Builder
	for i, r := range p.Rules {
		if i > 0 {
			b.WriteString("\n")
		}
		for _, line := range r.comments() {
			b.WriteString("# " + line + "\n")
		}
		if r.Purpose == vault.Public {
			b.WriteString("# path " + quoteHCL(r.Path) + " { capabilities = [" + list(r.Capabilities, quoteHCL) + "] }\n")
			continue
		}
		b.WriteString("path " + quoteHCL(r.Path) + " {\n  capabilities = [" + list(r.Capabilities, quoteHCL) + "]\n}\n")
	}
	return b.String()
}

// comments say what a rule is for.
func (r Rule) comments() []string {
	var lines []string
	switch r.Purpose {
	case vault.Version:
		lines = append(lines, "a refresh reads only the version")
	case vault.Token:
		lines = append(lines, "the Vault token is looked up, renewed, and revoked with the pod")
	case vault.Lease:
		lines = append(lines, "leases are renewed")
	default:
		names := make([]string, len(r.Classes))
		for i, c := range r.Classes {
			names[i] = finding.Printable(c.String())
		}
		lines = append(lines, "for "+strings.Join(names, ", "))
	}
	if r.Purpose == vault.Public {
		lines = append(lines, "Vault answers it for every token; if another engine is mounted at the path, add")
	}
	if !r.Exact() {
		lines = append(lines, "a policy cannot match "+finding.Printable(fmt.Sprintf("%q", r.For))+" only")
	}
	return lines
}

func list(words []string, quote func(string) string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, ", ")
}

// quoteHCL writes a string of HCL 1, the language of policies. A dollar before a brace would begin
// an interpolation.
func quoteHCL(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\u0024{`, "\n", `\n`).Replace(text) + `"`
}

// quoteTerraform writes a string of HCL 2, where a percent sign before a brace is
// special too.
func quoteTerraform(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", "$${", "%{", "%%{", "\n", `\n`).Replace(text) + `"`
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// QuoteShell writes one word of a POSIX shell.
func QuoteShell(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// head says which mount and role a grant belongs to.
func (g Grant) head() string {
	where := cmp.Or(g.Address, "the driver's server")
	if g.Namespace != "" {
		where += ", namespace " + g.Namespace
	}
	return finding.Printable(fmt.Sprintf("%s: role %s of auth/%s", where, g.Role, g.Mount))
}

// HCL prints the policy of each grant, and its role as a comment.
func HCL(grants []Grant) string {
	var b strings.Builder
	for i, g := range grants {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString("# " + g.head() + "\n# policy " + g.Policy.Name + "\n")
		if role := g.role(); role != nil {
			b.WriteString("# the role: " + string(role.json("")) + "\n")
		}
		b.WriteString("\n" + g.Policy.HCL())
	}
	return b.String()
}

// field is one field of a role.
type field struct {
	name  string
	value any // a string, a list of strings or a map
}

// fields preserve their order.
type fields []field

func (f fields) json(indent string) []byte {
	var b strings.Builder
	open, sep, end := "{", ", ", "}"
	if indent != "" {
		open, sep, end = "{\n"+indent, ",\n"+indent, "\n}"
	}
	b.WriteString(open)
	for i, one := range f {
		if i > 0 {
			b.WriteString(sep)
		}
		fmt.Fprintf(&b, "%s: %s", jsonOf(one.name), jsonOf(one.value))
	}
	b.WriteString(end)
	return []byte(b.String())
}

// jsonOf is JSON without HTML escapes.
func jsonOf(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // strings always encode
	return strings.TrimSuffix(b.String(), "\n")
}

// role is the content of the role; nil if no account logs in with it.
func (g Grant) role() fields {
	if len(g.Accounts) == 0 {
		return nil
	}
	var f fields
	if g.Method == JWT {
		f = append(f, field{"role_type", JWT}, field{"user_claim", "sub"})
		if g.Audience != "" {
			f = append(f, field{"bound_audiences", []string{g.Audience}})
		}
		subjects := make([]string, len(g.Accounts))
		for i, a := range g.Accounts {
			subjects[i] = a.subject()
		}
		if len(subjects) == 1 {
			f = append(f, field{"bound_subject", subjects[0]})
		} else {
			f = append(f, field{"bound_claims", map[string][]string{"sub": subjects}})
		}
		f = append(f, field{"claim_mappings", map[string]string{"/kubernetes.io/pod/name": "pod"}})
	} else {
		names, namespaces := g.names()
		f = append(f, field{"bound_service_account_names", names}, field{"bound_service_account_namespaces", namespaces})
		if g.Audience != "" {
			f = append(f, field{"audience", g.Audience})
		}
	}
	f = append(f, field{"token_policies", []string{g.Policy.Name}})
	if g.NoDefault {
		f = append(f, field{"token_no_default_policy", true})
	}
	return append(f, field{"token_ttl", tokenTTL})
}

// tokenTTL is the TTL of the Vault token, which the driver renews before it expires.
const tokenTTL = "1h"

// subject is the account in the sub claim of a service account token.
func (a Account) subject() string { return "system:serviceaccount:" + a.Namespace + ":" + a.Name }

// Commands prints the grants as commands of Vault's own program, which uses VAULT_ADDR and
// VAULT_TOKEN.
func Commands(grants []Grant) string {
	var b strings.Builder
	for i, g := range grants {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString("# " + g.head() + "\n" + g.PolicyCommand())
		if command := g.RoleCommand(); command != "" {
			b.WriteString("\n" + command)
		}
	}
	return b.String()
}

func (g Grant) flags() string {
	if g.Namespace == "" {
		return ""
	}
	return " -namespace=" + QuoteShell(g.Namespace)
}

// PolicyCommand writes the policy.
func (g Grant) PolicyCommand() string {
	return "vault policy write" + g.flags() + " " + g.Policy.Name + " - <<'EOF'\n" + g.Policy.HCL() + "EOF\n"
}

// RoleCommand writes the role; empty if no account logs in with it.
func (g Grant) RoleCommand() string {
	role := g.role()
	if role == nil {
		return ""
	}
	return "vault write" + g.flags() + " " + QuoteShell("auth/"+g.Mount+"/role/"+g.Role) + " - <<'EOF'\n" + string(role.json("  ")) + "\nEOF\n"
}

// PolicyLine and RoleLine are the same on one line each, for remedies.
func (g Grant) PolicyLine() string {
	words := make([]string, 0, len(g.Policy.Rules))
	for _, r := range g.Policy.Rules {
		if r.Purpose != vault.Public {
			words = append(words, "path "+quoteHCL(r.Path)+" { capabilities = ["+list(r.Capabilities, quoteHCL)+"] }")
		}
	}
	return "printf %s " + QuoteShell(strings.Join(words, " ")) + " | vault policy write" + g.flags() + " " + g.Policy.Name + " -"
}

// AppendLine adds rights to the policy in the store, which may have rules for other classes of the
// role.
func (g Grant) AppendLine(rights []vault.Right) string {
	var more Policy
	for _, r := range rights {
		more.add(r, g.Classes[0])
	}
	var words []string
	for _, r := range more.Rules {
		words = append(words, "path "+quoteHCL(r.Path)+" { capabilities = ["+list(r.Capabilities, quoteHCL)+"] }")
	}
	return "{ vault policy read" + g.flags() + " " + g.Policy.Name + "; printf %s " + QuoteShell(strings.Join(words, " ")) + "; } | vault policy write" + g.flags() + " " + g.Policy.Name + " -"
}

// RoleLine writes the role; empty if no account logs in with it.
func (g Grant) RoleLine() string { return g.line(g.role()) }

// PoliciesLine adds the policy to an existing role and keeps the rest of it. BindLine binds the
// role to the service accounts and keeps its policies.
func (g Grant) PoliciesLine(others ...string) string {
	return g.line(g.roleType(field{"token_policies", append(slices.Clone(others), g.Policy.Name)}))
}

// BindLine: see PoliciesLine.
func (g Grant) BindLine() string {
	return g.line(slices.DeleteFunc(g.role(), func(f field) bool { return strings.HasPrefix(f.name, "token_") }))
}

// roleType is what a write to a role of the jwt method must repeat.
func (g Grant) roleType(f field) fields {
	if g.Method == JWT {
		return fields{{"role_type", JWT}, {"user_claim", "sub"}, f}
	}
	return fields{f}
}

func (g Grant) line(role fields) string {
	if role == nil {
		return ""
	}
	return "printf %s " + QuoteShell(string(role.json(""))) + " | vault write" + g.flags() + " " + QuoteShell("auth/"+g.Mount+"/role/"+g.Role) + " -"
}

// Terraform prints the grants as resources of Terraform's provider for Vault.
func Terraform(grants []Grant) string {
	var b strings.Builder
	names := map[string]int{}
	for i, g := range grants {
		if i > 0 {
			b.WriteString("\n")
		}
		name := strings.Trim(regexp.MustCompile(`[^a-z0-9_]+`).ReplaceAllString(strings.ToLower(g.Policy.Name), "_"), "_")
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("%s_%d", name, names[name])
		}
		b.WriteString("# " + g.head() + "\n")
		resource(&b, "vault_policy", name, append(g.namespaceOf(), field{"name", g.Policy.Name}, field{"policy", heredoc(g.Policy.HCL())}))
		role := g.role()
		if role == nil {
			continue
		}
		b.WriteString("\n")
		kind := map[string]string{Kubernetes: "vault_kubernetes_auth_backend_role", JWT: "vault_jwt_auth_backend_role"}[g.Method]
		resource(&b, kind, name, append(append(g.namespaceOf(), field{"backend", g.Mount}, field{"role_name", g.Role}), g.terraformRole(role, name)...))
	}
	return b.String()
}

func (g Grant) namespaceOf() fields {
	if g.Namespace == "" {
		return nil
	}
	return fields{{"namespace", g.Namespace}}
}

// terraformRole is a role for Terraform's provider, with a reference to the policy.
func (g Grant) terraformRole(role fields, policy string) fields {
	var out fields
	for _, f := range role {
		switch f.name {
		case "token_ttl":
			f.value = reference("3600") // seconds
		case "token_policies":
			f.value = reference("[vault_policy." + policy + ".name]")
		case "bound_claims": // a list is written as one text there
			f.value = map[string]string{"sub": strings.Join(f.value.(map[string][]string)["sub"], ",")}
		}
		out = append(out, f)
	}
	return out
}

// reference is an expression, and heredoc a text of several lines.
type (
	reference string
	heredoc   string
)

func resource(b *strings.Builder, kind, name string, f fields) {
	width := 0
	for _, one := range f {
		width = max(width, len(one.name))
	}
	fmt.Fprintf(b, "resource %q %q {\n", kind, name)
	for _, one := range f {
		fmt.Fprintf(b, "  %-*s = %s\n", width, one.name, expression(one.value))
	}
	b.WriteString("}\n")
}

func expression(v any) string {
	switch v := v.(type) {
	case reference:
		return string(v)
	case heredoc:
		text := strings.NewReplacer("${", "$${", "%{", "%%{").Replace(string(v))
		var b strings.Builder
		for line := range strings.Lines(text) {
			if line != "\n" {
				b.WriteString("    ")
			}
			b.WriteString(line)
		}
		return "<<-EOT\n" + b.String() + "  EOT"
	case []string:
		return "[" + list(v, quoteTerraform) + "]"
	case map[string]string:
		var b strings.Builder
		for key, value := range v { // of one pair
			b.WriteString("{ " + quoteTerraform(key) + " = " + quoteTerraform(value) + " }")
		}
		return b.String()
	case bool:
		return fmt.Sprint(v)
	}
	return quoteTerraform(fmt.Sprint(v))
}
