package try

import (
	"context"
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

func (c *command) akeyless(ctx context.Context, k akeyless.Config) {
	k.UserAgent, k.DisableRevocation = "kubectl-mayfly/"+c.streams.Version, false
	k.DefaultTLS = k.DefaultTLS.WithoutClient()
	p, err := akeyless.New(k)
	if err != nil {
		c.refused(err)
		return
	}
	need, err := p.Needs(c.class)
	if err != nil {
		c.refused(err)
		return
	}
	if need.Key != "" {
		c.report.Check("the login with access type "+need.AccessType, finding.Unknown, "")
		c.add(finding.CodeTryUnsupported, finding.Finding{
			Message: fmt.Sprintf("access type %s logs in with %s of the Secret that a volume's nodePublishSecretRef names, which this command does not read: it made no request", need.AccessType, need.Key),
		})
		return
	}
	a := attempt{address: c.gateway, named: need.Gateway, files: need.Files, try: func(ctx context.Context, instead endpoint.Target, r provider.Request) (session.Trial, error) {
		k.Instead = instead
		p, err := akeyless.New(k)
		if err != nil {
			return session.Trial{}, err
		}
		defer p.Close()
		trial, err := p.Try(ctx, r, c.read)
		if err != nil {
			return trial.Trial, err
		}
		(&akeylessTrial{command: c, trial: trial}).report()
		return trial.Trial, nil
	}}
	if need.AsPod {
		a.audience = need.Audience
	}
	c.attempt(ctx, a)
}

// akeylessTrial is the data for reporting a trial.
type akeylessTrial struct {
	*command
	trial *akeyless.Trial
}

func (a *akeylessTrial) report() {
	a.notTried(a.trial.Reached, a.trial.Gateway)
	title := fmt.Sprintf("the login as access ID %q with access type %s", a.trial.AccessID, a.trial.AccessType)
	if a.trial.Refused != nil {
		a.command.report.Check(title, finding.Bad, fault.Cause(a.trial.Refused))
		a.add(finding.CodeTryLogin, finding.Finding{Message: title + " is refused: " + fault.Cause(a.trial.Refused), Remedy: fault.Hint(a.trial.Refused)})
		return
	}
	a.command.report.Check(title, finding.Good, "its token expires by itself: Akeyless cannot revoke it")
	for i := range a.trial.Objects {
		a.object(&a.trial.Objects[i])
	}
	a.unfit(a.trial.Unfit)
}

func (a *akeylessTrial) object(o *akeyless.Tried) {
	title := fmt.Sprintf("objects[%d] %q: item %q", o.Index, o.Name, o.Item)
	say := func(state finding.State, detail string) { a.command.report.Check(title, state, detail) }
	name := fmt.Sprintf("spec.parameters.objects[%d] %q", o.Index, o.Name)
	switch {
	case o.Read:
		say(finding.Good, read(&o.Tried))
	case len(o.Missing) > 0:
		say(finding.Bad, "")
		a.add(finding.CodeTryNoRight, finding.Finding{
			Message: fmt.Sprintf("%s: the roles of the login do not grant %s on item %q", name, strings.Join(o.Missing, ", "), o.Item),
			Remedy:  a.repairCommand(o.Item),
		})
	case o.Failed != nil:
		say(finding.Bad, fault.Cause(o.Failed))
		a.add(finding.CodeTryNotRead, finding.Finding{Message: name + ": " + fault.Cause(o.Failed), Remedy: fault.Hint(o.Failed)})
	case o.There == session.NotThere && o.Optional:
		say(finding.Good, "it does not exist, and it is optional")
	case o.There == session.NotThere:
		say(finding.Bad, "it does not exist")
		a.add(finding.CodeTryNotFound, finding.Finding{Message: fmt.Sprintf("%s: item %q does not exist", name, o.Item)})
	case o.Unasked != nil:
		say(finding.Unknown, "")
		a.unseen(name+": the rights of the login could not be read: "+fault.Cause(o.Unasked), "try again with --read")
	case o.There == session.IsThere:
		say(finding.Good, "allowed, and exists: "+o.Detail)
	default:
		say(finding.Good, "allowed; use --read to see whether it exists, because the login may not describe it")
	}
}

// repairCommand is the command that gives the login's role the rule.
func (a *akeylessTrial) repairCommand(item string) string {
	asked := access.AskedOfAkeyless{Class: a.class.Ref, Need: a.trial.Need, Accounts: []access.Account{{Namespace: a.class.Namespace, Name: a.account}}}
	rules := access.PlanAkeyless([]access.AskedOfAkeyless{asked}, false)[0]
	for _, rule := range rules.Items {
		if rule.Path == item {
			return rules.RuleCommand(rule)
		}
	}
	return ""
}
