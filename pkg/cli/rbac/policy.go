// Package rbac computes which subjects may do what in a cluster, from its roles and bindings alone.
// The API server's own reviews answer that question for one subject at a time.
package rbac

import (
	"cmp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// The groups that the API server adds people and service accounts to.
const (
	allAuthenticated   = "system:authenticated"
	allUnauthenticated = "system:unauthenticated"
	anonymous          = "system:anonymous"
	allAccounts        = "system:serviceaccounts"
	accountPrefix      = "system:serviceaccount:"
	clusterRole        = "ClusterRole"
)

// Subject is a user, a group or a service account.
type Subject struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Account is a service account.
func Account(namespace, name string) Subject {
	return Subject{rbacv1.ServiceAccountKind, namespace, name}
}

// subjectOf reads the subject of a binding, which may also name a service account by its user name.
func subjectOf(s rbacv1.Subject, namespace string) Subject {
	if s.Kind == rbacv1.UserKind {
		if of, name, ok := strings.Cut(strings.TrimPrefix(s.Name, accountPrefix), ":"); ok && strings.HasPrefix(s.Name, accountPrefix) {
			return Account(of, name)
		}
	}
	if s.Kind == rbacv1.ServiceAccountKind {
		return Account(cmp.Or(s.Namespace, namespace), s.Name)
	}
	return Subject{Kind: s.Kind, Name: s.Name}
}

// String is "Kind name", with the namespace of a service account.
func (s Subject) String() string {
	if s.Namespace != "" {
		return s.Kind + " " + s.Namespace + "/" + s.Name
	}
	return s.Kind + " " + s.Name
}

// Everyone reports whether the subject includes all who reach the API server, or every service
// account.
func (s Subject) Everyone() bool {
	switch s.Name {
	case allAuthenticated, allUnauthenticated, allAccounts:
		return s.Kind == rbacv1.GroupKind
	case anonymous:
		return s.Kind == rbacv1.UserKind
	}
	return false
}

// groups are those that the API server adds a subject to in any case.
func (s Subject) groups() []string {
	switch {
	case s.Kind == rbacv1.ServiceAccountKind:
		return []string{allAccounts, allAccounts + ":" + s.Namespace, allAuthenticated}
	case s.Kind == rbacv1.GroupKind && s.Name == allUnauthenticated, s.Kind == rbacv1.UserKind && s.Name == anonymous:
		return []string{allUnauthenticated}
	case s.Kind == rbacv1.GroupKind && strings.HasPrefix(s.Name, allAccounts+":"):
		return []string{allAccounts, allAuthenticated}
	}
	return []string{allAuthenticated}
}

// covers reports whether a grant to one subject applies to another one.
func (s Subject) covers(other Subject) bool {
	return s == other || s.Kind == rbacv1.GroupKind && slices.Contains(other.groups(), s.Name)
}

// PartOfKubernetes reports whether the subject, by these grants, is a part of Kubernetes itself:
// one of its components' users and groups, its nodes, or the account of a controller by the binding
// that Kubernetes makes for it.
func (s Subject) PartOfKubernetes(grants []Grant) bool {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		return s.Namespace == "kube-system" && !slices.ContainsFunc(grants, func(g Grant) bool { return g.Binding.Name != "system:controller:"+s.Name })
	case rbacv1.UserKind:
		return strings.HasPrefix(s.Name, "system:") && s.Name != anonymous
	}
	return strings.HasPrefix(s.Name, "system:") && !s.Everyone() && !strings.HasPrefix(s.Name, allAccounts+":")
}

// Ref names a role or a binding.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is "Kind namespace/name".
func (r Ref) String() string { return Subject(r).String() }

// Grant is one permission that a binding gives a subject.
type Grant struct {
	Subject Subject `json:"-"`
	Binding Ref     `json:"binding"`
	Role    Ref     `json:"role"`
	// Part is the ClusterRole that an aggregated one takes the rule from.
	Part    string  `json:"aggregatedFrom,omitempty"`
	Request Request `json:"-"`
}

// rule is one of a role's.
type rule struct {
	rbacv1.PolicyRule
	part string
}

// binding is a RoleBinding or a ClusterRoleBinding with the rules of its role.
type binding struct {
	ref      Ref
	role     Ref
	rules    []rule
	subjects []Subject
}

// Policy is the roles and bindings of a cluster, as far as they could be read.
type Policy struct {
	roles    map[Ref][]rule
	bindings []binding
	// Dangling are the bindings whose role could not be read.
	Dangling []Dangling
}

// Dangling is a binding whose role could not be read, or does not exist.
type Dangling struct{ Binding, Role Ref }

// Objects are the input of New.
type Objects struct {
	ClusterRoles        []rbacv1.ClusterRole
	Roles               []rbacv1.Role
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	RoleBindings        []rbacv1.RoleBinding
}

// New resolves bindings and aggregated roles.
func New(o Objects) *Policy {
	p := &Policy{roles: map[Ref][]rule{}}
	for i := range o.ClusterRoles {
		p.roles[Ref{clusterRole, "", o.ClusterRoles[i].Name}] = aggregated(&o.ClusterRoles[i], o.ClusterRoles)
	}
	for i := range o.Roles {
		r := &o.Roles[i]
		p.roles[Ref{"Role", r.Namespace, r.Name}] = rulesOf(r.Rules, "")
	}
	for i := range o.ClusterRoleBindings {
		b := &o.ClusterRoleBindings[i]
		p.bind(Ref{"ClusterRoleBinding", "", b.Name}, b.RoleRef, b.Subjects)
	}
	for i := range o.RoleBindings {
		b := &o.RoleBindings[i]
		p.bind(Ref{"RoleBinding", b.Namespace, b.Name}, b.RoleRef, b.Subjects)
	}
	return p
}

func rulesOf(rules []rbacv1.PolicyRule, part string) []rule {
	all := make([]rule, 0, len(rules))
	for _, r := range rules {
		all = append(all, rule{r, part})
	}
	return all
}

// aggregated are the rules of a ClusterRole. The controller copies the rules of its parts into it.
// This package reads them from the parts, so that it can name the part, and lists the role's own
// rules last.
func aggregated(r *rbacv1.ClusterRole, all []rbacv1.ClusterRole) []rule {
	if r.AggregationRule == nil {
		return rulesOf(r.Rules, "")
	}
	var rules []rule
	for _, s := range r.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			continue // the controller ignores such a selector too
		}
		for i := range all {
			if part := &all[i]; part.Name != r.Name && selector.Matches(labels.Set(part.Labels)) {
				rules = append(rules, rulesOf(part.Rules, part.Name)...)
			}
		}
	}
	return append(rules, rulesOf(r.Rules, "")...)
}

func (p *Policy) bind(ref Ref, to rbacv1.RoleRef, subjects []rbacv1.Subject) {
	b := binding{ref: ref, role: Ref{Kind: to.Kind, Name: to.Name}}
	if to.Kind != clusterRole {
		b.role.Namespace = ref.Namespace
	}
	rules, seen := p.roles[b.role]
	if !seen {
		p.Dangling = append(p.Dangling, Dangling{ref, b.role})
		return
	}
	b.rules = rules
	for _, s := range subjects {
		b.subjects = append(b.subjects, subjectOf(s, ref.Namespace))
	}
	p.bindings = append(p.bindings, b)
}

// Request is what the API server authorises. Resource includes the subresource, as in "pods/exec".
// Without a Namespace it is cluster-scoped; without a Name it concerns no single object, such as a
// create.
type Request struct {
	Verb      string `json:"verb"`
	Group     string `json:"group,omitempty"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// AnyName also counts rules for single objects, whatever their names.
	AnyName bool `json:"-"`
}

// String is "verb resource name", the form for kubectl auth can-i.
func (r Request) String() string {
	text := r.Verb + " " + r.Resource
	if r.Group != "" {
		resource, sub, _ := strings.Cut(r.Resource, "/")
		text = r.Verb + " " + resource + "." + r.Group
		if sub != "" {
			text += "/" + sub
		}
	}
	if r.Name != "" {
		text += " " + r.Name
	}
	return text
}

// allows matches as the API server's RBAC authorizer does: a resource is everything ("*"), itself,
// or a subresource of everything ("*/scale"); "pods/*" is no wildcard and grants nothing. It
// returns the request with the name for which it is allowed.
// for which it is allowed.
func (r *rule) allows(q Request) (Request, bool) {
	has := func(list []string, all, one string) bool {
		return slices.Contains(list, all) || slices.Contains(list, one)
	}
	if !has(r.Verbs, rbacv1.VerbAll, q.Verb) || !has(r.APIGroups, rbacv1.APIGroupAll, q.Group) {
		return q, false
	}
	_, sub, _ := strings.Cut(q.Resource, "/")
	if !has(r.Resources, rbacv1.ResourceAll, q.Resource) && (sub == "" || !slices.Contains(r.Resources, "*/"+sub)) {
		return q, false
	}
	switch {
	case len(r.ResourceNames) == 0:
		return q, true
	case q.AnyName:
		q.Name = r.ResourceNames[0]
		return q, true
	}
	return q, slices.Contains(r.ResourceNames, q.Name)
}

// Allowed are the grants of a request: a subject has one for each binding that allows it.
func (p *Policy) Allowed(q Request) []Grant {
	var grants []Grant
	for i := range p.bindings {
		b := &p.bindings[i]
		if b.ref.Namespace != "" && b.ref.Namespace != q.Namespace || len(b.subjects) == 0 {
			continue
		}
		for j := range b.rules {
			as, ok := b.rules[j].allows(q)
			if !ok {
				continue
			}
			for _, s := range b.subjects {
				grants = append(grants, Grant{s, b.ref, b.role, b.rules[j].part, as})
			}
			break
		}
	}
	return grants
}

// May reports whether a subject may do something, by a binding of its own or of a group that the
// API server adds it to.
func (p *Policy) May(s Subject, q Request) bool {
	return slices.ContainsFunc(p.Allowed(q), func(g Grant) bool { return g.Subject.covers(s) })
}
