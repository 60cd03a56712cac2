package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// The ways to reach the secrets of a class.
const (
	WayPods        = "create pods"
	WayWorkloads   = "create workloads"
	WayChange      = "change running pods"
	WayExec        = "exec into pods"
	WayNode        = "exec through nodes"
	WayToken       = "create tokens"
	WayTokenSecret = "create token Secrets"
	WayClass       = "edit the class"
	WaySecret      = "read the Secret created from it"
	WayWebhook     = "change pods by a webhook"
	WayDriver      = "run code beside the driver"
	WayImpersonate = "impersonate"
	WayCertificate = "sign client certificates"
	WayBind        = "bind roles"
	WayEscalate    = "escalate roles"
	WayAccount     = "act as a service account"
)

// step is one way and its requirements: for each part, one request that is allowed.
type step struct {
	way   string
	parts [][]Request
}

func one(way string, requests ...Request) step { return step{way, [][]Request{requests}} }

// Pod is a pod that mounts the class, or one of the driver.
type Pod struct{ Namespace, Name, Account, Node string }

// Target is what to reach: the objects of one class.
type Target struct {
	Namespace, Class string
	// Accounts are the service accounts of the namespace, Pods those that mount
	// the class, Secrets those that are made from it.
	Accounts []string
	Pods     []Pod
	Secrets  []string
	// DriverNamespace and DriverPods are where the driver runs.
	DriverNamespace string
	DriverPods      []Pod
	// Makers are further kinds whose objects make pods.
	Makers []schema.GroupResource
	// ExecByGet is for API servers before 1.35: get of pods/exec is enough.
	ExecByGet bool
	// PodsOf lists the pods of another namespace that run as an account.
	PodsOf func(Subject) []Pod
}

// makers are Kubernetes' own kinds whose objects make pods.
func makers() []schema.GroupResource {
	return []schema.GroupResource{
		{Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "statefulsets"},
		{Group: "apps", Resource: "daemonsets"}, {Group: "apps", Resource: "replicasets"},
		{Group: "batch", Resource: "jobs"}, {Group: "batch", Resource: "cronjobs"},
		{Resource: "replicationcontrollers"},
	}
}

// direct are the ways to the class itself, the simplest first.
func (t *Target) direct() []step {
	steps := slices.Concat(t.making(t.Namespace), t.inside(t.Pods))
	steps = append(steps, t.tokens(t.Namespace, t.Accounts)...)
	class := Request{Group: v1.GroupName, Resource: v1.SecretProviderClassResource, Namespace: t.Namespace, Name: t.Class}
	steps = append(steps,
		one(WayClass, verbs(class, "update", "patch")...),
		step{WayClass, [][]Request{verbs(class, "delete"), verbs(unnamed(class), "create")}})
	for _, name := range t.Secrets {
		steps = append(steps, one(WaySecret, verbs(Request{Resource: "secrets", Namespace: t.Namespace, Name: name}, "get", "list", "watch", "update", "patch")...))
	}
	const admission = "admissionregistration.k8s.io"
	steps = append(steps, one(WayWebhook, writing(Request{Group: admission, Resource: "mutatingwebhookconfigurations"})...),
		step{WayWebhook, [][]Request{
			writing(Request{Group: admission, Resource: "mutatingadmissionpolicies"}),
			writing(Request{Group: admission, Resource: "mutatingadmissionpolicybindings"}),
		}})
	if t.DriverNamespace != "" {
		for _, s := range slices.Concat(t.making(t.DriverNamespace), t.inside(t.DriverPods)) {
			steps = append(steps, step{WayDriver, s.parts})
		}
	}
	return append(steps, signing())
}

// making are the ways to create pods in a namespace, which can name any class and service account
// of it.
func (t *Target) making(namespace string) []step {
	steps := []step{one(WayPods, Request{Verb: "create", Resource: "pods", Namespace: namespace})}
	for _, kind := range append(makers(), t.Makers...) {
		steps = append(steps, one(WayWorkloads, writing(Request{Group: kind.Group, Resource: kind.Resource, Namespace: namespace})...))
	}
	return steps
}

// inside are the ways into running pods.
func (t *Target) inside(pods []Pod) []step {
	execVerbs := []string{"create"}
	if t.ExecByGet {
		execVerbs = append(execVerbs, "get")
	}
	var steps []step
	for _, pod := range pods {
		at := func(resource string) Request {
			return Request{Resource: resource, Namespace: pod.Namespace, Name: pod.Name}
		}
		steps = append(steps,
			one(WayExec, append(verbs(at("pods/exec"), execVerbs...), verbs(at("pods/attach"), execVerbs...)...)...),
			one(WayChange, append(verbs(at("pods"), "update", "patch"), verbs(at("pods/ephemeralcontainers"), "update", "patch")...)...))
		if pod.Node != "" {
			steps = append(steps, one(WayNode, verbs(Request{Resource: "nodes/proxy", Name: pod.Node}, "create", "get")...))
		}
	}
	if len(pods) == 0 { // the names of future pods are unknown
		return t.inside([]Pod{{Namespace: t.Namespace}})
	}
	return steps
}

// tokens are the ways to tokens of service accounts.
func (t *Target) tokens(namespace string, accounts []string) []step {
	var steps []step
	for _, name := range accounts {
		steps = append(steps, one(WayToken, Request{Verb: "create", Resource: "serviceaccounts/token", Namespace: namespace, Name: name}))
	}
	secrets := Request{Resource: "secrets", Namespace: namespace}
	return append(steps, step{WayTokenSecret, [][]Request{verbs(secrets, "create", "patch"), verbs(secrets, "get", "list", "watch", "update", "patch")}})
}

// signing is the way to a certificate of any user.
func signing() step {
	const group = "certificates.k8s.io"
	requests := Request{Group: group, Resource: "certificatesigningrequests"}
	signer := Request{Verb: "approve", Group: group, Resource: "signers"}
	named := func(name string) Request { q := signer; q.Name = name; return q }
	return step{WayCertificate, [][]Request{
		verbs(requests, "create"),
		verbs(Request{Group: group, Resource: "certificatesigningrequests/approval", AnyName: true}, "update", "patch"),
		{named("kubernetes.io/kube-apiserver-client"), named("kubernetes.io/*")},
	}}
}

// become are the ways to act as a subject that has ways of its own.
func (t *Target) become(s Subject, its []Request) []step {
	switch {
	case s.Everyone():
		return nil
	case s.Kind == rbacv1.ServiceAccountKind:
		return t.becomeAccount(s, its)
	}
	const authentication = "authentication.k8s.io"
	users := Request{Verb: "impersonate", Resource: "users", AnyName: true}
	constrained := Request{Verb: "impersonate:user-info", Group: authentication, Resource: "users", AnyName: true}
	if s.Kind == rbacv1.UserKind {
		users.Name, users.AnyName = s.Name, false
		constrained.Name, constrained.AnyName = s.Name, false
		return []step{
			one(WayImpersonate, users),
			{WayImpersonate, [][]Request{{constrained}, on("user-info", its)}},
		}
	}
	return []step{
		{WayImpersonate, [][]Request{{{Verb: "impersonate", Resource: "groups", Name: s.Name}}, {users}}},
		{WayImpersonate, [][]Request{{{Verb: "impersonate:user-info", Group: authentication, Resource: "groups", Name: s.Name}}, {constrained}, on("user-info", its)}},
	}
}

func (t *Target) becomeAccount(s Subject, its []Request) []step {
	steps := t.tokens(s.Namespace, []string{s.Name})
	if s.Namespace != t.Namespace { // within the namespace these are separate ways
		steps = append(steps, t.making(s.Namespace)...)
	}
	if t.PodsOf != nil {
		if pods := t.PodsOf(s); len(pods) > 0 {
			steps = append(steps, t.inside(pods)...)
		}
	}
	for i := range steps {
		steps[i].way = WayAccount
	}
	return append(steps,
		one(WayImpersonate, Request{Verb: "impersonate", Resource: "serviceaccounts", Namespace: s.Namespace, Name: s.Name}),
		step{WayImpersonate, [][]Request{
			{{Verb: "impersonate:serviceaccount", Group: "authentication.k8s.io", Resource: "serviceaccounts", Namespace: s.Namespace, Name: s.Name}},
			on("serviceaccount", its),
		}})
}

// on are the additional requests that constrained impersonation requires: what the other subject
// does.
func on(mode string, its []Request) []Request {
	all := make([]Request, 0, len(its))
	for _, q := range its {
		q.Verb = "impersonate-on:" + mode + ":" + q.Verb
		all = append(all, q)
	}
	return all
}

// raising are the ways to get more rights: to bind a role that gives a way, and to add rules to a
// role.
func (t *Target) raising(giving func(namespace string) []Ref) []step {
	var steps []step
	for _, namespace := range slices.Compact([]string{"", t.Namespace, t.DriverNamespace}) {
		resource := "rolebindings"
		if namespace == "" {
			resource = "clusterrolebindings"
		}
		bindings := Request{Group: rbacv1.GroupName, Resource: resource, Namespace: namespace}
		var roles []Request
		for _, role := range giving(namespace) {
			of := "roles"
			if role.Kind == clusterRole {
				of = "clusterroles"
			}
			roles = append(roles, Request{Verb: "bind", Group: rbacv1.GroupName, Resource: of, Namespace: namespace, Name: role.Name})
		}
		steps = append(steps, step{WayBind, [][]Request{writing(bindings), roles}})
		if namespace != "" {
			roles := Request{Group: rbacv1.GroupName, Resource: "roles", Namespace: namespace, AnyName: true}
			steps = append(steps, step{WayEscalate, [][]Request{verbs(roles, "update", "patch"), verbs(roles, "escalate")}})
		}
	}
	roles := Request{Group: rbacv1.GroupName, Resource: "clusterroles", AnyName: true}
	return append(steps, step{WayEscalate, [][]Request{writing(roles), verbs(roles, "escalate")}})
}

// verbs are a request in several verbs.
func verbs(q Request, names ...string) []Request {
	all := make([]Request, 0, len(names))
	for _, name := range names {
		q.Verb = name
		all = append(all, q)
	}
	return all
}

// writing are the requests that create or change an object of any name.
func writing(q Request) []Request {
	q.AnyName = true
	return append(verbs(unnamed(q), "create"), verbs(q, "update", "patch")...)
}

func unnamed(q Request) Request {
	q.Name, q.AnyName = "", false
	return q
}
