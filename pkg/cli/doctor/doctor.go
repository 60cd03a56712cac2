// Package doctor checks how a cluster protects its secrets: at rest, from readers, in the pods, and
// by the driver's own settings.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
)

// command is one run.
type command struct {
	cluster.Flags
	streams output.Streams
	out     *output.Flags

	baseline, write string
}

// look is the state that all checks share: what they read, and what they found.
type look struct {
	client *cluster.Client
	report *finding.Report
	// namespace is the one to check; empty for all.
	namespace string
	// unseen is what the current check could not read.
	unseen int
	// roles are what the check of readers could read, and allRoles says whether that is everything.
	roles    *rbac.Policy
	allRoles bool
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{streams: s, out: o}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check how a cluster protects its secrets",
		Long: `Check how a cluster protects its secrets, with the evidence for each finding.

doctor checks all namespaces, or that of -n: whether and how Secrets are encrypted
at rest, who reads them, which of them a class could mount instead, which workloads use
them as environment variables, credentials in plain text in ConfigMaps and pods
(their form and place, never the value), the audiences of tokens, default service
accounts, the Kubernetes Secrets that classes list, the audit trail, the allowed servers,
the driver on each node, and CRDs, policies and flags of another version.

It never reads the content of a Secret, only its metadata. If you may not read an
object, that is a finding too.

A baseline lists the accepted findings:

  accepted:
  - code: MF503
    object: ServiceAccount backup/velero
    reason: backs up all namespaces
    expires: 2027-01-31`,
		Example: `  # Everything
  kubectl mayfly doctor

  # One namespace, in CI
  kubectl mayfly doctor -n shop --fail-on warning -o sarif > doctor.sarif

  # Accept the current findings, and fail for new ones
  kubectl mayfly doctor --write-baseline mayfly-baseline.yaml
  kubectl mayfly doctor --baseline mayfly-baseline.yaml --fail-on warning`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			return c.run(cmd.Context(), cmd.Flags().Changed("namespace"))
		},
	}
	flags := cmd.Flags()
	c.Bind(flags)
	flags.StringVar(&c.baseline, "baseline", "", "a YAML `file` of accepted findings: code, object, reason, expires")
	flags.StringVar(&c.write, "write-baseline", "", "a `file` to write all findings to; entries that it already has do not change")
	return cmd
}

func (c *command) run(ctx context.Context, one bool) error {
	accepted, err := readBaseline(c.streams.Time(), c.baseline, c.write)
	if err != nil {
		return err
	}
	client, err := c.Connect(c.streams)
	if err != nil {
		return err
	}
	l := &look{client: client, report: &finding.Report{}}
	if one {
		l.namespace = client.Namespace
	}
	if _, err := client.Discovery().ServerVersion(); err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reaching the cluster: %s", cluster.Reason(err))
	}
	l.checks(ctx)
	if c.write != "" {
		if err := accepted.write(c.write, l.report); err != nil {
			return err
		}
	}
	accepted.apply(l)
	return c.out.Finish(l.report, c.streams)
}

// checks runs all checks in the order in which they are printed.
func (l *look) checks(ctx context.Context) {
	d := findDriver(ctx, l)
	encryption(ctx, l)
	readers(ctx, l)
	couldMount(ctx, l)
	w := readWorkloads(ctx, l)
	w.plainText(ctx)
	w.environment()
	d.audiences()
	d.secretObjects(ctx)
	w.defaultAccounts()
	d.audit()
	d.allowList()
	d.nodes(ctx)
	d.versions()
	crds(ctx, l)
	d.policies(ctx)
	d.unknownFlags()
}

// notSeen records what could not be read.
func (l *look) notSeen(what finding.Object, err error) {
	l.unseen++
	cluster.NotSeen(l.report, what, err)
}

// add adds a finding of the current check.
func (l *look) add(code string, f finding.Finding) { l.report.Add(code, f) }

// recordCheck records the result of a check: bad with findings, unknown without findings if something
// could not be read.
func (l *look) recordCheck(title string, found int, detail string) {
	state := finding.Good
	switch {
	case found > 0:
		state = finding.Bad
	case l.unseen > 0:
		state = finding.Unknown
	}
	l.unseen = 0
	l.report.Check(title, state, detail)
}

// all returns an object that stands for all of a kind.
func all(kind, namespace string) finding.Object {
	return finding.Object{Kind: kind, Namespace: namespace, Name: "*"}
}

// metadataOnly requests objects without their content.
const metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

// metadata lists the metadata of objects of the core group, page by page.
func (l *look) metadata(ctx context.Context, resource string, o metav1.ListOptions, take func(*metav1.PartialObjectMetadata)) error {
	return cluster.Pages(func(page metav1.ListOptions) (string, error) {
		page.FieldSelector = o.FieldSelector
		request := l.client.CoreV1().RESTClient().Get().Resource(resource).VersionedParams(&page, paramsOf()).SetHeader("Accept", metadataOnly)
		if l.namespace != "" {
			request = request.Namespace(l.namespace)
		}
		data, err := raw(request.Do(ctx))
		if err != nil {
			return "", err
		}
		list := &metav1.PartialObjectMetadataList{}
		if err := json.Unmarshal(data, list); err != nil {
			return "", fmt.Errorf("reading the metadata of %s: %w", resource, err)
		}
		l.report.Objects += len(list.Items)
		for i := range list.Items {
			take(&list.Items[i])
		}
		return list.Continue, nil
	})
}

// raw returns the body of an answer, or the API server's own error text.
func raw(r rest.Result) ([]byte, error) {
	if err := r.Error(); err != nil {
		return nil, err
	}
	return r.Raw()
}

func paramsOf() runtime.ParameterCodec {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	return runtime.NewParameterCodec(scheme)
}

// some are names of objects, of which a message has only a few.
type some struct {
	names []string
	count int
}

// maxNames is how many names a message has.
const maxNames = 5

func (s *some) add(name string) {
	s.count++
	if len(s.names) < maxNames {
		s.names = append(s.names, name)
	}
}

// String returns the first names, and how many more there are.
func (s *some) String() string {
	if more := s.count - len(s.names); more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(s.names, ", "), more)
	}
	return strings.Join(s.names, ", ")
}

// listed returns the first names, and how many more there are.
func listed(names []string, most int) string {
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
