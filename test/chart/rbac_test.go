package chart

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// rights lists what the driver's ServiceAccount may do, as "group/resource: verb".
func rights(t *testing.T, all *objects) []string {
	t.Helper()
	if len(all.bindings) != 1 {
		t.Fatalf("%d bindings, want 1", len(all.bindings))
	}
	var rules []rbacv1.PolicyRule
	for _, role := range all.clusterRoles {
		if role.Name == all.bindings[0].RoleRef.Name {
			rules = append(rules, role.Rules...)
		}
	}
	var list []string
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					list = append(list, group+"/"+resource+": "+verb)
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

const group = "secrets-store.csi.x-k8s.io/"

// always is everything that the driver may do if no option is enabled.
var always = []string{
	"/events: create", "/events: update",
	group + "secretproviderclasses: get", group + "secretproviderclasses: list", group + "secretproviderclasses: watch",
	group + "secretproviderclasspodstatuses: create", group + "secretproviderclasspodstatuses: delete",
	group + "secretproviderclasspodstatuses: get", group + "secretproviderclasspodstatuses: list", group + "secretproviderclasspodstatuses: update",
}

func TestRights(t *testing.T) {
	tests := []struct {
		set  string
		more []string
	}{
		{"", nil},
		{"startupTaint.remove=true", []string{"/nodes: get", "/nodes: patch"}},
		{"providerPlugins.enabled=true", nil},
	}
	for _, tt := range tests {
		want := slices.Sorted(slices.Values(slices.Concat(always, tt.more)))
		if got := rights(t, decode(t, render(t, newest, "--set", tt.set))); !slices.Equal(got, want) {
			t.Errorf("%s: rights\n%q, want\n%q", tt.set, got, want)
		}
	}
}

// TestUninstallCheck: the check lists statuses and can do nothing else, its pod has no rights on
// the node, and nothing of it remains.
func TestUninstallCheck(t *testing.T) {
	for _, name := range []string{"default", "everything"} {
		all := decode(t, renderSet(t, name))
		if got := rights(t, all.hooks); !slices.Equal(got, []string{group + "secretproviderclasspodstatuses: list"}) {
			t.Errorf("%s: rights %q", name, got)
		}
		job := all.hooks.jobs[0]
		pod := job.Spec.Template.Spec
		if got := all.hooks.bindings[0].Subjects[0].Name; pod.ServiceAccountName != got || all.hooks.accounts[0].Name != got {
			t.Errorf("%s: the Job runs as %s, bound is %s", name, pod.ServiceAccountName, got)
		}
		if c := pod.Containers[0]; c.Image != all.daemonSets[0].Spec.Template.Spec.Containers[0].Image || !slices.Equal(c.Args, []string{"mounted", "--driver-name=" + all.drivers[0].Name}) ||
			!*c.SecurityContext.RunAsNonRoot || len(pod.Volumes) > 0 {
			t.Errorf("%s: the Job's pod is %+v", name, pod)
		}
		if job.Spec.Template.Labels["app.kubernetes.io/name"] != "" {
			t.Errorf("%s: the DaemonSet's selector finds the Job's pod: %v", name, job.Spec.Template.Labels)
		}
		for _, a := range []map[string]string{job.Annotations, all.hooks.accounts[0].Annotations, all.hooks.clusterRoles[0].Annotations, all.hooks.bindings[0].Annotations} {
			if a["helm.sh/hook-delete-policy"] != "before-hook-creation,hook-succeeded,hook-failed" {
				t.Errorf("%s: an object stays behind: %v", name, a)
			}
		}
	}
}

func TestBindingNamesTheAccount(t *testing.T) {
	for _, name := range []string{"default", "everything"} {
		all := decode(t, renderSet(t, name))
		account := all.accounts[0]
		subject := all.bindings[0].Subjects[0]
		if subject.Name != account.Name || subject.Namespace != account.Namespace {
			t.Errorf("%s: bound %s/%s, the account is %s/%s", name, subject.Namespace, subject.Name, account.Namespace, account.Name)
		}
		if got := all.daemonSets[0].Spec.Template.Spec.ServiceAccountName; got != account.Name {
			t.Errorf("%s: the pods run as %s, the account is %s", name, got, account.Name)
		}
	}
}

// TestAggregatedRoles: users who may view see everything and change nothing; only the driver writes
// pod statuses.
func TestAggregatedRoles(t *testing.T) {
	reading := []string{"get", "list", "watch"}
	for _, role := range decode(t, renderSet(t, "default")).clusterRoles {
		view := role.Labels["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
		edit := role.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				if view && !slices.Contains(reading, verb) {
					t.Errorf("%s lets viewers %s %v", role.Name, verb, rule.Resources)
				}
				if edit && !slices.Contains(reading, verb) && slices.Contains(rule.Resources, "secretproviderclasspodstatuses") {
					t.Errorf("%s lets editors %s pod statuses", role.Name, verb)
				}
			}
		}
	}
}
