package rbac

import (
	"cmp"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Row is a subject that has ways to reach the class.
type Row struct {
	Subject Subject `json:"subject"`
	// System marks the parts of Kubernetes itself.
	System bool  `json:"system,omitempty"`
	Ways   []Way `json:"ways"`
}

// Way is one way to reach the class.
type Way struct {
	Way string `json:"way"`
	// As is the subject that has further ways, if this one leads to it.
	As *Subject `json:"as,omitempty"`
	// Requests are what the API server allows the subject, Grants the bindings that allow it.
	Requests []Request `json:"requests"`
	Grants   []Grant   `json:"by"`
}

// maxRounds bounds chains of subjects that may act as one another.
const maxRounds = 8

// search looks for the ways.
type search struct {
	*Policy
	target  *Target
	allowed map[Request][]Grant
	rows    map[Subject]*Row
	steps   []step // the ways to the class itself, to find roles that give one
}

// Reach returns the subjects that can reach the class's secrets, and how. The subjects are users,
// groups and service accounts as bindings name them; RBAC does not say who is in a group.
func (p *Policy) Reach(t *Target) []Row {
	t = p.reduced(t)
	s := &search{Policy: p, target: t, allowed: map[Request][]Grant{}, rows: map[Subject]*Row{}}
	for _, step := range t.direct() {
		s.steps = append(s.steps, step)
		s.try(step, nil)
	}
	s.steps = append(s.steps, one(WayImpersonate,
		Request{Verb: "impersonate", Resource: "users", AnyName: true},
		Request{Verb: "impersonate", Resource: "serviceaccounts", Namespace: t.Namespace, AnyName: true}))
	tried := map[Subject]bool{}
	masters := Subject{Kind: rbacv1.GroupKind, Name: "system:masters"} // may do everything, without any binding
	next := append(slices.SortedFunc(maps.Keys(s.rows), compare), masters)
	for range maxRounds {
		for _, subject := range next {
			if !tried[subject] {
				tried[subject] = true
				for _, step := range t.become(subject, s.requestsOf(subject)) {
					s.try(step, &subject)
				}
			}
		}
		for _, step := range t.raising(s.giving) {
			s.try(step, nil)
		}
		next = slices.DeleteFunc(slices.SortedFunc(maps.Keys(s.rows), compare), func(x Subject) bool { return tried[x] })
		if len(next) == 0 {
			break
		}
	}
	return s.result()
}

// reduced returns the first pod and account of each namespace, and those that some rule names:
// rules without names treat the others alike.
func (p *Policy) reduced(t *Target) *Target {
	named := map[string]bool{}
	for _, rules := range p.roles {
		for i := range rules {
			for _, name := range rules[i].ResourceNames {
				named[name] = true
			}
		}
	}
	pods := func(all []Pod) []Pod {
		first := map[string]bool{}
		return slices.DeleteFunc(slices.Clone(all), func(x Pod) bool {
			keep := !first[x.Namespace] || named[x.Name] || named[x.Node]
			first[x.Namespace] = true
			return !keep
		})
	}
	out := *t
	out.Pods, out.DriverPods = pods(t.Pods), pods(t.DriverPods)
	out.Accounts = nil
	for i, name := range t.Accounts {
		if i == 0 || named[name] {
			out.Accounts = append(out.Accounts, name)
		}
	}
	if t.PodsOf != nil {
		out.PodsOf = func(s Subject) []Pod { return pods(t.PodsOf(s)) }
	}
	return &out
}

func compare(a, b Subject) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (s *search) ask(q Request) []Grant {
	grants, ok := s.allowed[q]
	if !ok {
		grants = s.Allowed(q)
		s.allowed[q] = grants
	}
	return grants
}

// try adds the subjects that may make every request of a step.
func (s *search) try(st step, as *Subject) {
	parts := make([][]Grant, len(st.parts))
	candidates := map[Subject]bool{}
	for i, requests := range st.parts {
		for _, q := range requests {
			parts[i] = append(parts[i], s.ask(q)...)
		}
		if len(parts[i]) == 0 {
			return
		}
		for _, g := range parts[i] {
			candidates[g.Subject] = true
		}
	}
	for subject := range candidates {
		if as != nil && *as == subject {
			continue
		}
		if grants := fulfilled(subject, parts); grants != nil {
			s.add(subject, st.way, as, grants)
		}
	}
}

// fulfilled are the grants by which a subject may make all requests; nil if it may not. Its own
// come before those of its groups.
func fulfilled(subject Subject, parts [][]Grant) []Grant {
	var all []Grant
	for _, grants := range parts {
		own := slices.DeleteFunc(slices.Clone(grants), func(g Grant) bool { return g.Subject != subject })
		if len(own) == 0 {
			own = slices.DeleteFunc(slices.Clone(grants), func(g Grant) bool { return !g.Subject.covers(subject) })
		}
		if len(own) == 0 {
			return nil
		}
		all = append(all, own...)
	}
	return all
}

func (s *search) add(subject Subject, way string, as *Subject, grants []Grant) {
	row := s.rows[subject]
	if row == nil {
		row = &Row{Subject: subject}
		s.rows[subject] = row
	}
	i := slices.IndexFunc(row.Ways, func(w Way) bool {
		return w.Way == way && (w.As == nil) == (as == nil) && (as == nil || *w.As == *as)
	})
	if i < 0 {
		row.Ways = append(row.Ways, Way{Way: way, As: as})
		i = len(row.Ways) - 1
	}
	w := &row.Ways[i]
	for _, g := range grants {
		q := g.Request
		q.AnyName = false
		if !slices.Contains(w.Requests, q) {
			w.Requests = append(w.Requests, q)
		}
		g.Request = Request{}
		if !slices.Contains(w.Grants, g) {
			w.Grants = append(w.Grants, g)
		}
	}
}

// requestsOf is what a subject may do, from all its ways.
func (s *search) requestsOf(subject Subject) []Request {
	var all []Request
	if row := s.rows[subject]; row != nil {
		for _, w := range row.Ways {
			all = append(all, w.Requests...)
		}
	}
	return all
}

// giving are the roles that give a way to their subjects, in a namespace or in the whole cluster.
func (s *search) giving(namespace string) []Ref {
	var found []Ref
	for role, rules := range s.roles {
		if role.Namespace != "" && role.Namespace != namespace {
			continue
		}
		if slices.ContainsFunc(s.steps, func(st step) bool { return st.givenBy(rules, namespace) }) {
			found = append(found, role)
		}
	}
	slices.SortFunc(found, func(a, b Ref) int { return compare(Subject(a), Subject(b)) })
	return found
}

func (st *step) givenBy(rules []rule, namespace string) bool {
	return !slices.ContainsFunc(st.parts, func(requests []Request) bool {
		return !slices.ContainsFunc(requests, func(q Request) bool {
			if namespace != "" && namespace != q.Namespace {
				return false
			}
			return slices.ContainsFunc(rules, func(r rule) bool {
				_, ok := r.allows(q)
				return ok
			})
		})
	})
}

func (s *search) result() []Row {
	rows := make([]Row, 0, len(s.rows))
	for _, subject := range slices.SortedFunc(maps.Keys(s.rows), compare) {
		row := s.rows[subject]
		row.System = !slices.ContainsFunc(row.Ways, func(w Way) bool {
			return !subject.PartOfKubernetes(w.Grants)
		})
		rows = append(rows, *row)
	}
	return rows
}
