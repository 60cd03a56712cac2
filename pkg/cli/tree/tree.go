// Package tree is kubectl mayfly tree: from a class to its objects and their place in the store,
// and to the pods that mount them.
package tree

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/duration"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

// command is a command line.
type command struct {
	cluster.Flags
	output  *output.Flags
	streams output.Streams
	live    bool
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{output: o, streams: s}
	cmd := &cobra.Command{
		Use:   "tree CLASS",
		Short: "Show a class with its objects, their paths in the store, and the pods that mount them",
		Long: `Show a class with its objects, their paths in the store, and the pods that mount
them.

The paths come from the class. The pods and their versions are those of kubectl
mayfly status. Findings go to standard error.`,
		Example: `  # Which pods have the secrets of a class
  kubectl mayfly tree web-secrets -n shop

  # For a program
  kubectl mayfly tree web-secrets -n shop -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	c.Bind(flags)
	flags.BoolVar(&c.live, "live", true, "ask the nodes")
	return cmd
}

// document is the JSON form.
type document struct {
	// Version counts the changes of this form that break readers.
	Version   int               `json:"version"`
	Namespace string            `json:"namespace"`
	Class     string            `json:"class"`
	Exists    bool              `json:"exists"`
	Provider  string            `json:"provider,omitempty"`
	Stores    []string          `json:"stores,omitempty"`
	Objects   []provider.Listed `json:"objects,omitempty"`
	Volumes   []volumes.Volume  `json:"volumes"`
	Findings  []finding.Finding `json:"findings"`
}

func (c *command) run(ctx context.Context, name string) error {
	if err := c.output.Check(); err != nil {
		return err
	}
	client, err := c.Connect(c.streams)
	if err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "class/")
	r := &finding.Report{}
	d := &document{Version: 1, Namespace: client.Namespace, Class: name}
	about := finding.Object{Kind: "SecretProviderClass", Namespace: d.Namespace, Name: name}
	found, err := client.Class(ctx, client.Namespace, name)
	switch {
	case apierrors.IsNotFound(err):
		r.Add(finding.CodeClassAbsent, finding.Finding{Object: about, Message: "does not exist in this namespace"})
	case err != nil:
		cluster.NotSeen(r, about, err)
	default:
		d.of(found, r)
	}
	l := &volumes.Lister{Client: client, Now: c.streams.Time}
	defer l.Close()
	d.Volumes = l.List(ctx, volumes.Options{Namespace: client.Namespace, Class: name, Live: c.live}, r).Volumes
	d.checkVolumes(found, about, r)
	return c.print(d, r)
}

// of adds the class's own settings.
func (d *document) of(c *v1.SecretProviderClass, r *finding.Report) {
	d.Exists, d.Provider = true, finding.Printable(string(c.Spec.Provider))
	listed, err := objectsOf(c)
	if err != nil {
		r.Add(finding.CodeRefused, finding.Finding{Object: finding.Object{Kind: "SecretProviderClass", Namespace: c.Namespace, Name: c.Name}, Message: err.Error()})
	}
	for _, o := range listed {
		d.Objects = append(d.Objects, provider.Listed{ID: finding.Printable(o.ID), From: finding.Printable(o.From), Key: finding.Printable(o.Key)})
	}
}

// operatorsAddress stands for the address in the operator's flags.
const operatorsAddress = "https://vault.invalid"

// objectsOf are the objects of a class; none for a plugin's class, whose parameters are not known.
func objectsOf(c *v1.SecretProviderClass) ([]provider.Listed, error) {
	parsed, _, err := class.Parse(c)
	if err != nil {
		return nil, err
	}
	switch name := parsed.Provider; name {
	case vault.NameVault, vault.NameOpenBao:
		p, err := vault.New(vault.Config{Name: name, DefaultAddress: operatorsAddress})
		if err != nil {
			return nil, err
		}
		return p.Listed(parsed)
	case akeyless.Name:
		p, err := akeyless.New(akeyless.Config{})
		if err != nil {
			return nil, err
		}
		return p.Listed(parsed)
	}
	return nil, nil
}

// checkVolumes reports what the volumes show about the class; c may be nil.
func (d *document) checkVolumes(c *v1.SecretProviderClass, about finding.Object, r *finding.Report) {
	for i := range d.Volumes {
		v := &d.Volumes[i]
		if v.Store != "" && !slices.Contains(d.Stores, v.Store) {
			d.Stores = append(d.Stores, v.Store)
		}
		if d.Exists && v.Live && !v.Refreshing && v.ClassVersion != "" && v.ClassVersion != c.ResourceVersion {
			r.Add(finding.CodeClassOutdated, finding.Finding{Object: v.Object(), Message: fmt.Sprintf(
				"has the content of version %s of class %s, and the class is at version %s", v.ClassVersion, v.Class, c.ResourceVersion),
				Remedy: "kubectl mayfly refresh " + v.Class + " -n " + v.Namespace + ", and read its result"})
		}
	}
	slices.Sort(d.Stores)
	if len(d.Volumes) == 0 && d.Exists {
		r.Add(finding.CodeClassUnused, finding.Finding{Object: about, Message: "no pod mounts it"})
	}
	r.Objects = 1 + len(d.Volumes)
}

func (c *command) print(d *document, r *finding.Report) error {
	switch c.output.Format {
	case output.SARIF:
		return c.output.Finish(r, c.streams)
	case output.JSON:
		r.Sort()
		d.Volumes, d.Findings = append([]volumes.Volume{}, d.Volumes...), append([]finding.Finding{}, r.Findings...)
		if err := output.EncodeJSON(c.streams.Out, d); err != nil {
			return fmt.Errorf("writing the tree: %w", err)
		}
		return c.output.Verdict(r)
	}
	if err := d.root(c.streams.Time()).write(c.streams.Out, "", ""); err != nil {
		return fmt.Errorf("writing the tree: %w", err)
	}
	return c.output.Aside(r, c.streams)
}

// branch is a line of the tree.
type branch struct {
	text     string
	children []branch
}

func (b branch) write(w io.Writer, first, rest string) error {
	if _, err := io.WriteString(w, first+b.text+"\n"); err != nil {
		return err
	}
	for i, child := range b.children {
		mark, below := "├── ", "│   "
		if i == len(b.children)-1 {
			mark, below = "└── ", "    "
		}
		if err := child.write(w, rest+mark, rest+below); err != nil {
			return err
		}
	}
	return nil
}

func (d *document) root(now time.Time) branch {
	text := "SecretProviderClass " + d.Namespace + "/" + d.Class
	switch {
	case d.Provider != "":
		text += " (" + d.Provider + ")"
	case !d.Exists:
		text += " (not seen)"
	}
	out := branch{text: text}
	for _, s := range d.Stores {
		out.children = append(out.children, branch{text: "store " + s})
	}
	for _, o := range d.Objects {
		text := "object " + o.ID + " from " + o.From
		if o.Key != "" {
			text += ", key " + strconv.Quote(o.Key)
		}
		out.children = append(out.children, branch{text: text})
	}
	for i := range d.Volumes {
		out.children = append(out.children, podBranch(&d.Volumes[i], now))
	}
	return out
}

func podBranch(v *volumes.Volume, now time.Time) branch {
	text := fmt.Sprintf("pod %s on %s: %s", v.Pod, cmp.Or(v.Node, "an unknown node"), v.State)
	if reason := v.Reason(); reason != "" {
		text += " (" + reason + ")"
	}
	if !v.RefreshedAt.IsZero() {
		text += ", refreshed " + duration.HumanDuration(max(0, now.Sub(v.RefreshedAt))) + " ago"
	}
	out := branch{text: text}
	for _, o := range v.Objects {
		line := o.ID
		if o.Version != "" {
			line += " version " + o.Version
		}
		if !o.ExpiresAt.IsZero() {
			line += ", expires in " + duration.HumanDuration(max(0, o.ExpiresAt.Sub(now)))
		}
		out.children = append(out.children, branch{text: line})
	}
	return out
}
