// Package who reports who can read the secrets of a class, and who did.
package who

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
	"github.com/mayfly-csi/mayfly/pkg/cli/trail"
)

const kindClass = "SecretProviderClass"

// command is one run.
type command struct {
	cluster.Flags
	streams output.Streams
	out     *output.Flags

	files []string
	since string
	only  string
	all   bool
	kinds []string

	client        *cluster.Client
	report        *finding.Report
	class, object string
	namespace     string

	// driverPods are the driver's pods, driverSeen says that they were listed.
	driverNamespace string
	driverPods      []corev1.Pod
	driverSeen      bool
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{streams: s, out: o, report: &finding.Report{}}
	cmd := &cobra.Command{
		Use:   "who CLASS[/OBJECT]",
		Short: "List who can read the secrets of a class, and who did",
		Long: `List who can read the secrets of a class, and who did.

Who can: users, groups and service accounts that may create pods in the class's
namespace or exec into those that mount it, create tokens for its service accounts,
edit the class, read the Secret that is created from it, impersonate such a subject,
or extend their own rights that far. The command evaluates roles and bindings. It
does not know the members of a group, other authorizers, admission rules, and which
service accounts the store accepts. The files of a whole secret (secretKeys: "*") are
those that pods have, by their statuses: only the store knows its keys.

Who did: the pods in the driver's audit trail, from files, or from the logs of the
driver's pods if it writes the trail there (the chart's default).`,
		Example: `  # Who can read the class db, and who did, from the logs on the nodes
  kubectl mayfly who db -n shop

  # One object of it, in the last day, from collected log files
  kubectl mayfly who db/password -n shop --audit node-1.log --audit node-2.log --since 24h

  # Only the trail, without a cluster
  zcat audit-*.gz | kubectl mayfly who db -n shop --only did --audit -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			return c.run(cmd.Context(), args[0])
		},
	}
	flags := cmd.Flags()
	c.Bind(flags)
	flags.StringArrayVar(&c.files, "audit", nil, "a `file` of the audit trail, - for the standard input; may be repeated (default the logs of the driver's pods)")
	flags.StringVar(&c.since, "since", "", "skip older entries: a `time` such as 2026-03-01T09:00:00Z, or how long ago, such as 36h or 7d")
	flags.StringVar(&c.only, "only", "", "only one `half`: can or did")
	flags.BoolVar(&c.all, "all", false, "list Kubernetes' own components, nodes and controllers too")
	flags.StringArrayVar(&c.kinds, "workload-kind", nil, "another `kind` whose objects create pods, such as rollouts.argoproj.io; may be repeated")
	return cmd
}

func (c *command) run(ctx context.Context, arg string) error {
	c.class, c.object, _ = strings.Cut(arg, "/")
	if c.class == "" || c.object == "" && strings.Contains(arg, "/") {
		return fmt.Errorf("%q: must be CLASS or CLASS/OBJECT; the namespace is that of -n", arg)
	}
	if c.only != "" && c.only != "can" && c.only != "did" {
		return fmt.Errorf("--only: must be can or did, not %q", c.only)
	}
	since, err := parseSince(c.since, c.streams.Time())
	if err != nil {
		return err
	}
	if c.only == "did" && len(c.files) > 0 {
		if c.namespace, err = c.CurrentNamespace(); err != nil {
			return err
		}
	} else {
		if c.client, err = c.Connect(c.streams); err != nil {
			return err
		}
		c.namespace = c.client.Namespace
	}
	a := &answer{object: finding.Object{Kind: kindClass, Namespace: c.namespace, Name: c.class}, part: c.object, all: c.all}
	if c.client != nil {
		if err := c.look(ctx, a); err != nil {
			return err
		}
	}
	if c.only != "did" {
		c.can(ctx, a)
	}
	if c.only != "can" {
		if err := c.did(ctx, a, since); err != nil {
			return err
		}
	}
	if err := c.print(a); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return c.out.Verdict(c.report)
}

// parseSince reads a time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if d, err := time.ParseDuration(days + "h"); err == nil && d >= 0 {
			return now.Add(-24 * d), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("--since %q: must be a time such as 2026-03-01T09:00:00Z, or how long ago, such as 36h or 7d", text)
}

// did reads the audit trail.
func (c *command) did(ctx context.Context, a *answer, since time.Time) error {
	t := trail.New(c.namespace, c.class, c.object, since)
	a.trail = t
	for _, name := range c.files {
		if err := readFile(t, name, c.streams.In); err != nil {
			return err
		}
		a.sources = append(a.sources, name)
		c.report.Files++
	}
	if len(c.files) == 0 {
		c.readNodes(ctx, a, since)
	}
	c.gaps(a)
	return nil
}

// gaps reports what is missing in the trail.
func (c *command) gaps(a *answer) {
	about, sums := a.object, a.trail.Sums()
	if sums.Bad > 0 {
		c.report.Add(finding.CodeAuditLinesUnusable, finding.Finding{Message: fmt.Sprintf("%s of the audit trail cannot be used; of the first: %s", output.Plural(sums.Bad, "line"), sums.Why)})
	}
	if sums.Broken > 0 {
		c.report.Add(finding.CodeAuditChainBroken, finding.Finding{Message: fmt.Sprintf("%s of the audit trail where the chain of its lines is broken; at the first: %s", output.Plural(sums.Broken, "place"), sums.Break)})
	}
	if sums.Lost > 0 {
		c.report.Add(finding.CodeAuditGaps, finding.Finding{Message: fmt.Sprintf("the drivers say that %s were lost, of any class", output.Plural(sums.Lost, "line"))})
	}
	if sums.Omitted > 0 {
		c.report.Add(finding.CodeAuditGaps, finding.Finding{Object: about, Message: fmt.Sprintf("the trail has more than %d pods of this class, and %s of further ones are omitted", trail.MaxReaders, output.Plural(sums.Omitted, "line")), Remedy: "shorten the time with --since"})
	}
	uncertain := 0
	for _, r := range a.trail.Readers() {
		uncertain += r.Uncertain
	}
	if uncertain > 0 {
		c.report.Add(finding.CodeAuditGaps, finding.Finding{Object: about, Message: fmt.Sprintf("the lines of %s do not list every object, so %q may or may not have been read", output.Plural(uncertain, "read"), c.object)})
	}
}

func readFile(t *trail.Trail, name string, stdin io.Reader) error {
	if name == "-" {
		if err := t.Read(stdin, ""); err != nil {
			return fmt.Errorf("reading the standard input: %w", err)
		}
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	defer f.Close()
	if err := t.Read(f, ""); err != nil {
		return fmt.Errorf("reading the audit trail: %w", err)
	}
	return nil
}

// makers are the kinds of --workload-kind.
func makers(kinds []string) []schema.GroupResource {
	var all []schema.GroupResource
	for _, kind := range kinds {
		all = append(all, schema.ParseGroupResource(kind))
	}
	return all
}

// answer is the result of the command.
type answer struct {
	object finding.Object
	part   string
	all    bool

	class    *classInfo
	accounts []account
	pods     []rbac.Pod
	rows     []rbac.Row
	looked   bool // for who can

	trail   *trail.Trail
	sources []string
}

// account is a service account of the namespace, with how many of its pods mount
// the class.
type account struct {
	Name string `json:"name"`
	Pods int    `json:"pods"`
}
