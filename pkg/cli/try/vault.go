package try

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// maxRemedy bounds a remedy, since a finding has no more space. A remedy with a longer command
// names the command that prints it.
const maxRemedy = 1400

func (c *command) vault(ctx context.Context, k vault.Config) {
	k.Name, k.UserAgent, k.DisableRevocation = c.class.Provider, "kubectl-mayfly/"+c.streams.Version, false
	if k.DefaultAddress == "" {
		k.DefaultAddress, k.DefaultFallback = c.vaultAddr, ""
	}
	if k.DefaultTLS.ClientCertFile != "" && c.clientCert == "" {
		k.DefaultTLS = k.DefaultTLS.WithoutClient()
		c.report.Check("the driver's client certificate", finding.Skipped, "it is on the nodes: pass one with --store-client-cert and --store-client-key if the server requires it")
	}
	p, err := vault.New(k)
	if err != nil {
		c.refused(err)
		return
	}
	need, err := p.Needs(c.class)
	if err != nil {
		c.refused(err)
		return
	}
	c.attempt(ctx, attempt{address: c.vaultAddr, named: need.Address, files: need.Files, audience: need.Audience, try: func(ctx context.Context, instead endpoint.Target, r provider.Request) (session.Trial, error) {
		k.Instead = instead
		p, err := vault.New(k)
		if err != nil {
			return session.Trial{}, err
		}
		defer p.Close()
		trial, err := p.Try(ctx, r, c.read)
		if err != nil {
			return trial.Trial, err
		}
		(&vaultTrial{command: c, trial: trial}).report()
		return trial.Trial, nil
	}})
}

// vaultTrial is the data for reporting a trial.
type vaultTrial struct {
	*command
	trial *vault.Trial
}

func (v *vaultTrial) report() {
	v.notTried(v.trial.Reached, v.trial.Address)
	title := fmt.Sprintf("the login as role %q at auth/%s", v.trial.Role, v.trial.Mount)
	if v.trial.Refused != nil {
		v.command.report.Check(title, finding.Bad, fault.Cause(v.trial.Refused))
		v.add(finding.CodeTryLogin, finding.Finding{Message: title + " is refused: " + fault.Cause(v.trial.Refused), Remedy: v.repairLogin()})
		return
	}
	detail := ""
	if v.trial.Policies != nil {
		detail = "with the policies " + strings.Join(v.trial.Policies, ", ")
	}
	v.command.report.Check(title, finding.Good, detail)
	if v.trial.Unasked != nil {
		v.unseen("the rights of the login could not be read: "+fault.Cause(v.trial.Unasked), "let it update sys/capabilities-self, as Vault's default policy does; or try again with --read")
	}
	for i := range v.trial.Objects {
		v.object(&v.trial.Objects[i])
	}
	v.unfit(v.trial.Unfit)
	if v.trial.NotRevoked != nil {
		v.add(finding.CodeTryNotRevoked, finding.Finding{Message: "the Vault token of the try could not be revoked: " + fault.Cause(v.trial.NotRevoked), Remedy: "it expires by its TTL; let it update auth/token/revoke-self, as Vault's default policy does, because pods need that too"})
	}
}

// object reports one object.
func (v *vaultTrial) object(o *vault.Tried) {
	title := fmt.Sprintf("objects[%d] %q: %s", o.Index, o.Name, o.Request)
	say := func(state finding.State, detail string) { v.command.report.Check(title, state, detail) }
	name := fmt.Sprintf("spec.parameters.objects[%d] %q", o.Index, o.Name)
	switch {
	case o.Read:
		say(finding.Good, read(&o.Tried))
	case o.WithData != "" && !o.Guessed && (o.Failed != nil || !v.read):
		say(finding.Bad, "the path lacks data/")
		v.add(finding.CodeTryNoRight, finding.Finding{Message: fmt.Sprintf("%s: %s lacks data/: a KV engine of version 2 is mounted there", name, o.Request), Remedy: fmt.Sprintf("write secretPath: %s, and let the role read that", o.WithData)})
	case len(o.Missing) > 0:
		say(finding.Bad, "not allowed")
		remedy := v.repairRights()
		if o.Guessed {
			remedy = fmt.Sprintf("if a KV engine of version 2 is mounted there, write secretPath: %s, and try again; else %s", o.WithData, remedy)
		}
		v.add(finding.CodeTryNoRight, finding.Finding{Message: fmt.Sprintf("%s: the policies of role %q do not grant %s", name, v.trial.Role, missing(o)), Remedy: remedy})
	case o.Failed != nil:
		say(finding.Bad, fault.Cause(o.Failed))
		v.add(finding.CodeTryNotRead, finding.Finding{Message: name + ": " + fault.Cause(o.Failed), Remedy: fault.Hint(o.Failed)})
	case o.There == session.NotThere && o.Optional:
		say(finding.Good, withDefault(o.Detail, "it does not exist")+", and it is optional")
	case o.There == session.NotThere:
		say(finding.Bad, withDefault(o.Detail, "it does not exist"))
		v.add(finding.CodeTryNotFound, finding.Finding{Message: fmt.Sprintf("%s: %s does not exist: %s", name, o.Request, o.Detail), Remedy: put(o)})
	case v.trial.Unasked != nil:
		say(finding.Unknown, "")
	case o.There == session.IsThere:
		say(finding.Good, "allowed, and exists: "+o.Detail)
	default:
		say(finding.Good, "allowed; use --read to see whether it exists"+after(o.Detail))
	}
}

func after(detail string) string {
	if detail == "" {
		return ""
	}
	return ": " + detail
}

// missing are the rights that an object lacks.
func missing(o *vault.Tried) string {
	words := make([]string, len(o.Missing))
	for i, r := range o.Missing {
		words[i] = fmt.Sprintf("%s on %q", r.Capability, r.Path)
	}
	return strings.Join(words, ", ")
}

// grant is what the class needs for the service account.
func (v *vaultTrial) grant() access.Grant {
	asked := access.Asked{Class: v.class.Ref, Need: v.trial.Need, Accounts: []access.Account{{Namespace: v.class.Namespace, Name: v.account}}}
	return access.Plan([]access.Asked{asked}, access.Options{}, &finding.Report{})[0]
}

// repairRights are the commands that give the login the missing rights.
func (v *vaultTrial) repairRights() string {
	g := v.grant()
	line := g.PolicyLine()
	switch policies := slices.DeleteFunc(slices.Clone(v.trial.Policies), func(p string) bool { return p == "default" }); {
	case slices.Contains(policies, g.Policy.Name):
		var lacking []vault.Right
		for i := range v.trial.Objects {
			lacking = append(lacking, v.trial.Objects[i].Missing...)
		}
		line = g.AppendLine(lacking)
	case v.trial.Policies == nil:
		line += " ; and add " + g.Policy.Name + " to token_policies of auth/" + v.trial.Mount + "/role/" + v.trial.Role
	default:
		line += " && " + g.PoliciesLine(policies...)
	}
	return v.orPolicy(line)
}

// repairLogin is the remedy for a refused login, with the commands if the role does not exist.
func (v *vaultTrial) repairLogin() string {
	hint := fault.Hint(v.trial.Refused)
	g := v.grant()
	words := strings.ToLower(v.trial.Refused.Error())
	if strings.Contains(words, "invalid role name") || strings.Contains(words, "could not be found") {
		return v.orPolicy(g.PolicyLine() + " && " + g.RoleLine())
	}
	if strings.Contains(words, "not authorized") || strings.Contains(words, "audience") || strings.Contains(words, "subject") {
		if hint != "" {
			hint += "; "
		}
		return v.orPolicy(hint + "for this service account only: " + g.BindLine())
	}
	return hint
}

// orPolicy is the remedy, or the command that prints it if it is too long.
func (v *vaultTrial) orPolicy(line string) string {
	if len(line) <= maxRemedy {
		return line
	}
	return fmt.Sprintf("run the output of: kubectl mayfly policy %s -n %s --serviceaccount %s -o commands", v.class.Name, v.class.Namespace, v.account)
}

// put is the command that stores the missing object, without its values.
func put(o *vault.Tried) string {
	mount, path, found := strings.Cut(o.Path, "/data/")
	if !found {
		return ""
	}
	key := withDefault(o.Key, "KEY")
	return fmt.Sprintf("store it: vault kv put -mount=%s %s %s=...", access.QuoteShell(mount), access.QuoteShell(path), access.QuoteShell(key))
}
