package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
)

// readVerbs are the verbs whose answers have a Secret's content: those of a write have it too.
func readVerbs() []string { return []string{"get", "list", "watch", "update", "patch"} }

// reader is a subject that reads Secrets, and how.
type reader struct {
	verbs  []string
	grants []rbac.Grant
}

// secretReaders are the subjects that read all Secrets of a namespace, or of the cluster for an
// empty one.
func secretReaders(p *rbac.Policy, namespace string) map[rbac.Subject]*reader {
	found := map[rbac.Subject]*reader{}
	for _, verb := range readVerbs() {
		for _, g := range p.Allowed(rbac.Request{Verb: verb, Resource: "secrets", Namespace: namespace}) {
			if (g.Binding.Namespace == "") != (namespace == "") {
				continue // the whole cluster has a finding of its own
			}
			r := found[g.Subject]
			if r == nil {
				r = &reader{}
				found[g.Subject] = r
			}
			if !slices.Contains(r.verbs, verb) {
				r.verbs = append(r.verbs, verb)
			}
			g.Request = rbac.Request{}
			if !slices.Contains(r.grants, g) {
				r.grants = append(r.grants, g)
			}
		}
	}
	return found
}

// readers checks which subjects read Secrets.
func readers(ctx context.Context, l *look) {
	objects, unseen := rbac.Load(ctx, l.client, l.namespace)
	for _, u := range unseen {
		l.notSeen(u.Object, u.Err)
	}
	l.report.Objects += len(objects.ClusterRoles) + len(objects.Roles) + len(objects.ClusterRoleBindings) + len(objects.RoleBindings)
	p := rbac.New(objects)
	l.roles, l.allRoles = p, len(unseen) == 0
	found, system := 0, 0
	everywhere := secretReaders(p, "")
	for _, s := range slices.SortedFunc(maps.Keys(everywhere), bySubject) {
		r := everywhere[s]
		if s.PartOfKubernetes(r.grants) {
			system++
			continue
		}
		found++
		f := finding.Finding{Object: finding.Object(s), Message: fmt.Sprintf("may %s the Secrets of all namespaces, by %s", strings.Join(r.verbs, ", "), grantText(r.grants))}
		if s.Everyone() {
			f.Level = finding.Error
		}
		l.add(finding.CodeReadsAll, f)
	}
	namespaces := map[string]bool{}
	for i := range objects.RoleBindings {
		namespaces[objects.RoleBindings[i].Namespace] = true
	}
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		if l.namespace == "" || namespace == l.namespace {
			namespaceReaders(l, p, namespace)
		}
	}
	detail := fmt.Sprintf("%s of the whole cluster's", output.Plural(found, "reader"))
	if system > 0 {
		detail += fmt.Sprintf(", besides %s of Kubernetes itself", output.Plural(system, "part"))
	}
	l.recordCheck("readers of Secrets", found, detail)
}

func namespaceReaders(l *look, p *rbac.Policy, namespace string) {
	readers := secretReaders(p, namespace)
	var names []string
	level := finding.Level("")
	for _, s := range slices.SortedFunc(maps.Keys(readers), bySubject) {
		if r := readers[s]; !s.PartOfKubernetes(r.grants) {
			names = append(names, fmt.Sprintf("%s by %s", s, grantText(r.grants)))
			if s.Everyone() {
				level = finding.Error
			}
		}
	}
	if len(names) > 0 {
		l.add(finding.CodeReadsNamespace, finding.Finding{Level: level, Object: finding.Object{Kind: "Namespace", Name: namespace},
			Message: fmt.Sprintf("%s all its Secrets: %s", readPlural(len(names)), listed(names, 10))})
	}
}

func readPlural(n int) string {
	if n == 1 {
		return "1 subject reads"
	}
	return fmt.Sprintf("%d subjects read", n)
}

func bySubject(a, b rbac.Subject) int { return strings.Compare(a.String(), b.String()) }

func grantText(grants []rbac.Grant) string {
	var names []string
	for _, g := range grants {
		if text := fmt.Sprintf("%s (%s)", g.Binding, g.Role); !slices.Contains(names, text) {
			names = append(names, text)
		}
	}
	return listed(names, 3)
}

// mountable are the types of Secrets whose content is only for applications, and which neither
// kubelet nor Kubernetes needs as a Secret.
func mountable() []string {
	return []string{"Opaque", "kubernetes.io/basic-auth", "kubernetes.io/ssh-auth", "kubernetes.io/tls"}
}

// managedLabel marks the Secrets that a CSI driver made from a class.
const managedLabel = cluster.DefaultDriver + "/managed"

// couldMount counts the Secrets whose content classes could mount.
func couldMount(ctx context.Context, l *look) {
	byNamespace := map[string]*some{}
	total := 0
	for _, kind := range mountable() {
		err := l.metadata(ctx, "secrets", metav1.ListOptions{FieldSelector: "type=" + kind}, func(m *metav1.PartialObjectMetadata) {
			if m.Labels[managedLabel] == "true" || m.Namespace == metav1.NamespaceSystem {
				return
			}
			total++
			if byNamespace[m.Namespace] == nil {
				byNamespace[m.Namespace] = &some{}
			}
			byNamespace[m.Namespace].add(m.Name)
		})
		if err != nil {
			l.notSeen(all("Secret", l.namespace), err)
			break
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		l.add(finding.CodeCouldMount, finding.Finding{Object: finding.Object{Kind: "Namespace", Name: namespace},
			Message: fmt.Sprintf("%s could be mounted by classes instead: %s", output.Plural(byNamespace[namespace].count, "Secret"), byNamespace[namespace])})
	}
	l.recordCheck("Secrets that classes could replace", 0, output.Plural(total, "Secret"))
}
