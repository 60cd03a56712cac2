// Package lint checks manifests without a cluster: what the driver would refuse or warn of, and
// mistakes between the objects.
package lint

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/manifest"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

const defaultDriver = "secrets-store.csi.k8s.io"

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	l := &linter{report: &finding.Report{}}
	cmd := &cobra.Command{
		Use:   "lint FILE|DIR|-...",
		Short: "Check classes and the pods that mount them, without a cluster",
		Long: `Check classes and the pods that mount them, without a cluster.

lint reads SecretProviderClass, Pod, Deployment, StatefulSet, DaemonSet,
ReplicaSet, Job, CronJob, CSIDriver and Secret objects from YAML and JSON, with
any number of documents and lists, as Helm and Kustomize render them. It ignores
other objects. In a directory it reads *.yaml, *.yml and *.json, also in
subdirectories. It reports what the driver would refuse or warn about, and errors
between the objects, such as a missing class. It does not know the operator's
flags: it assumes that a class without an address uses the operator's.`,
		Example: `  # Everything in a directory
  kubectl mayfly lint deploy/

  # What a chart renders, and what an overlay builds
  helm template my-app ./chart | kubectl mayfly lint -
  kubectl kustomize overlays/production | kubectl mayfly lint -n shop -

  # For code scanning
  kubectl mayfly lint -o sarif deploy/ > mayfly.sarif`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			if err := l.run(args, s); err != nil {
				return err
			}
			return o.Finish(l.report, s)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&l.namespace, "namespace", "n", "", "the namespace of objects without one")
	flags.StringVar(&l.driver, "driver-name", defaultDriver, "the name of the CSIDriver object of Mayfly")
	return cmd
}

// linter collects the objects of all files, then checks them together.
type linter struct {
	namespace, driver string
	// cluster says that the objects are a cluster's.
	cluster bool
	// operator is what the driver's flags say; nil where they are not known.
	operator *Operator

	report  *finding.Report
	checker *checker
	classes []*linted
	pods    []*manifest.Object
	drivers []*manifest.Object
	secrets []*manifest.Object
	parsed  parsed
}

func (l *linter) run(names []string, s output.Streams) error {
	var err error
	if l.checker, err = newChecker(nil); err != nil {
		return err
	}
	src := &manifest.Source{Report: l.report, Stdin: s.In, Take: l.take, Text: l.parsed.add}
	for _, name := range names {
		if err := src.Read(name); err != nil {
			return err
		}
	}
	l.all()
	return nil
}

// all checks the collected objects.
func (l *linter) all() {
	for _, c := range l.classes {
		l.class(c)
	}
	l.rest()
	l.repeated()
	for _, d := range l.drivers {
		l.csiDriver(d)
	}
	l.audiences()
	for _, p := range l.pods {
		l.pod(p)
	}
}

func (l *linter) take(o *manifest.Object) {
	if o.Namespace == "" && o.Kind != "CSIDriver" {
		o.Namespace = l.namespace
	}
	switch {
	case o.Kind == manifest.KindClass:
		l.classes = append(l.classes, &linted{Object: o})
	case o.Kind == "CSIDriver" && o.Name == l.driver:
		l.drivers = append(l.drivers, o)
	case o.Kind == "Secret":
		l.secrets = append(l.secrets, o)
	case manifest.PodPath(o.Kind) != nil:
		l.pods = append(l.pods, o)
	}
}

// at adds a finding about an object at a line.
func (l *linter) at(o *manifest.Object, line int, code string, f finding.Finding) {
	f.Object, f.File, f.Line = o.Object, o.File, line
	l.report.Add(code, f)
}

// repeated reports classes that are given twice: one overwrites the other.
func (l *linter) repeated() {
	first := map[class.Ref]*linted{}
	for _, c := range l.classes {
		ref := class.Ref{Namespace: c.Namespace, Name: c.Name}
		if other := first[ref]; other != nil && c.Name != "" {
			l.at(c.Object, c.Line(c.Node), finding.CodeDuplicate, finding.Finding{Message: fmt.Sprintf("is also at %s:%d, and one of them overwrites the other", other.File, other.Line(other.Node))})
			continue
		}
		first[ref] = c
	}
}
