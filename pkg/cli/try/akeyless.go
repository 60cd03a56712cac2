package try

import (
	"context"
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
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
		c.add(finding.CodeTryOther, finding.Finding{
			Message: fmt.Sprintf("access type %s logs in with %s of the Secret that a volume's nodePublishSecretRef names, which is not read here: nothing was tried", need.AccessType, need.Key),
		})
		return
	}
	var ok bool
	if k.Instead, ok = c.instead(c.gateway, need.Gateway, need.Files); !ok {
		return
	}
	var tokens identity.Tokens
	if need.AsPod {
		c.audience(ctx, need.Audience)
		if tokens, ok = c.token(ctx, need.Audience); !ok {
			return
		}
	}
	if p, err = akeyless.New(k); err != nil {
		c.refused(err)
		return
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	trial, err := p.Try(ctx, c.request(tokens), c.read)
	if err != nil {
		reached := need.Gateway
		if trial != nil {
			reached = trial.Reached
		}
		c.away(reached, err)
		return
	}
	(&akeylessTrial{command: c, Trial: trial}).report()
}

// akeylessTrial is the data for reporting a trial.
type akeylessTrial struct {
	*command
	*akeyless.Trial
}

func (a *akeylessTrial) report() {
	a.notTried(a.Reached, a.Gateway)
	title := fmt.Sprintf("the login as access ID %q with access type %s", a.AccessID, a.AccessType)
	if a.Refused != nil {
		a.command.report.Check(title, finding.Bad, fault.Cause(a.Refused))
		a.add(finding.CodeTryLogin, finding.Finding{Message: title + " is refused: " + fault.Cause(a.Refused), Remedy: fault.Hint(a.Refused)})
		return
	}
	a.command.report.Check(title, finding.Good, "its token ends by itself: Akeyless has no way to end it")
	for i := range a.Objects {
		a.object(&a.Objects[i])
	}
}

func (a *akeylessTrial) object(o *akeyless.Tried) {
	title := fmt.Sprintf("objects[%d] %q: item %q", o.Index, o.Name, o.Item)
	say := func(state finding.State, detail string) { a.command.report.Check(title, state, detail) }
	name := fmt.Sprintf("spec.parameters.objects[%d] %q", o.Index, o.Name)
	switch {
	case o.Read:
		say(finding.Good, fmt.Sprintf("read, %d bytes", o.Size))
	case len(o.Missing) > 0:
		say(finding.Bad, "")
		a.add(finding.CodeTryNoRight, finding.Finding{
			Message: fmt.Sprintf("%s: the roles of the login do not grant %s on item %q", name, strings.Join(o.Missing, ", "), o.Item),
			Remedy:  a.repairCommand(o.Item),
		})
	case o.Failed != nil:
		say(finding.Bad, fault.Cause(o.Failed))
		a.add(finding.CodeTryNotRead, finding.Finding{Message: name + ": " + fault.Cause(o.Failed), Remedy: fault.Hint(o.Failed)})
	case o.Absent && o.Optional:
		say(finding.Good, "it is not there, and it is optional")
	case o.Absent:
		say(finding.Bad, "it is not there")
		a.add(finding.CodeTryNotThere, finding.Finding{Message: fmt.Sprintf("%s: item %q is not there", name, o.Item)})
	case o.Unasked != nil:
		say(finding.Unknown, "")
		a.unseen(name+": what the login may do could not be asked: "+fault.Cause(o.Unasked), "see with --read")
	case o.There:
		say(finding.Good, "allowed, and there: "+o.Type)
	default:
		say(finding.Good, "allowed; whether it is there only --read tells, since the login may not describe it")
	}
}

// repairCommand is the command that gives the login's role the rule.
func (a *akeylessTrial) repairCommand(item string) string {
	asked := access.AskedOfAkeyless{Class: a.class.Ref, Need: a.Need, Accounts: []access.Account{{Namespace: a.class.Namespace, Name: a.account}}}
	rules := access.PlanAkeyless([]access.AskedOfAkeyless{asked}, false)[0]
	for _, rule := range rules.Items {
		if rule.Path == item {
			return rules.RuleCommand(rule)
		}
	}
	return ""
}
