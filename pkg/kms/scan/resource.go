package scan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Resource is a kind of objects, as an EncryptionConfiguration names it:
// secrets, deployments.apps, widgets.example.com.
type Resource struct{ Group, Name string }

// String is the resource's name, a dot and its group, or only the name for the core group.
func (r Resource) String() string {
	if r.Group == "" {
		return r.Name
	}
	return r.Name + "." + r.Group
}

// Compare orders resources by group and name.
func (r Resource) Compare(other Resource) int {
	return cmp.Or(cmp.Compare(r.Group, other.Group), cmp.Compare(r.Name, other.Name))
}

// builtIn are the groups whose resources are directly under the API server's prefix, without their
// group. Every other group has a folder of its own (kubernetes
// pkg/kubeapiserver/default_storage_factory_builder.go).
func builtIn() map[string][]string {
	return map[string][]string{
		"": {"bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes",
			"persistentvolumeclaims", "persistentvolumes", "pods", "podtemplates", "replicationcontrollers",
			"resourcequotas", "secrets", "serviceaccounts", "services"},
		"admissionregistration.k8s.io": {"mutatingadmissionpolicies", "mutatingadmissionpolicybindings",
			"mutatingwebhookconfigurations", "validatingadmissionpolicies", "validatingadmissionpolicybindings",
			"validatingwebhookconfigurations"},
		"apps":                         {"controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"},
		"autoscaling":                  {"horizontalpodautoscalers"},
		"batch":                        {"cronjobs", "jobs"},
		"certificates.k8s.io":          {"certificatesigningrequests", "clustertrustbundles", "podcertificaterequests"},
		"coordination.k8s.io":          {"leasecandidates", "leases"},
		"discovery.k8s.io":             {"endpointslices"},
		"flowcontrol.apiserver.k8s.io": {"flowschemas", "prioritylevelconfigurations"},
		"internal.apiserver.k8s.io":    {"storageversions"},
		"networking.k8s.io":            {"ingressclasses", "ingresses", "ipaddresses", "networkpolicies", "servicecidrs"},
		"node.k8s.io":                  {"runtimeclasses"},
		"policy":                       {"poddisruptionbudgets"},
		"rbac.authorization.k8s.io":    {"clusterrolebindings", "clusterroles", "rolebindings", "roles"},
		"resource.k8s.io":              {"deviceclasses", "devicetaintrules", "resourceclaims", "resourceclaimtemplates", "resourceslices"},
		"scheduling.k8s.io":            {"priorityclasses", "workloads"},
		"storage.k8s.io": {"csidrivers", "csinodes", "csistoragecapacities", "storageclasses",
			"volumeattachments", "volumeattributesclasses"},
		"storagemigration.k8s.io": {"storageversionmigrations"},
	}
}

// folders are the resources that have another name in etcd.
func folders() map[string]string {
	return map[string]string{
		"endpoints":              "services/endpoints",
		"ingresses":              "ingress",
		"nodes":                  "minions",
		"replicationcontrollers": "controllers",
		"services":               "services/specs",
	}
}

// Keys maps between resources and their place under the API server's --etcd-prefix.
type Keys struct {
	prefix string // with a slash at its end
	// byFolder are the built-in resources by their folder.
	byFolder map[string]Resource
	groups   map[string][]string
}

// NewKeys makes Keys for the API server's --etcd-prefix, usually /registry.
func NewKeys(prefix string) Keys {
	k := Keys{prefix: "/" + strings.Trim(prefix, "/") + "/", byFolder: map[string]Resource{}, groups: builtIn()}
	if k.prefix == "//" {
		k.prefix = "/"
	}
	renamed := folders()
	for group, names := range k.groups {
		for _, name := range names {
			k.byFolder[cmp.Or(renamed[name], name)] = Resource{group, name}
		}
	}
	return k
}

// Of returns the resource of a key of etcd, and the object's namespace and name, joined by a slash.
func (k Keys) Of(key string) (r Resource, object string, ok bool) {
	rest, ok := strings.CutPrefix(key, k.prefix)
	if !ok {
		return Resource{}, "", false
	}
	first, after, ok := strings.Cut(rest, "/")
	if !ok || first == "" {
		return Resource{}, "", false
	}
	if r, ok := k.byFolder[first]; ok {
		return r, after, after != ""
	}
	second, object, deeper := strings.Cut(after, "/")
	if r, ok := k.byFolder[first+"/"+second]; ok {
		return r, object, deeper && object != ""
	}
	if strings.Contains(first, ".") {
		return Resource{Group: first, Name: second}, object, deeper && second != "" && object != ""
	}
	// A resource of an API server that is newer than this program, or an entry without an API, such
	// as ranges and masterleases.
	return Resource{Name: first}, after, after != ""
}

// Selection is a list of resources in the form of an EncryptionConfiguration. "*.*" means all
// resources, "*." the core group, and "*.apps" a group.
type Selection []string

// Check refuses invalid resources.
func (s Selection) Check() error {
	if len(s) == 0 {
		return fmt.Errorf("no resource is named")
	}
	for _, pattern := range s {
		name, group, _ := strings.Cut(pattern, ".")
		switch {
		case name == "" || strings.ContainsAny(pattern, "/ \t\x00"):
			return fmt.Errorf("%q is no resource; write secrets, widgets.example.com, *.apps or *.*", pattern)
		case name == "*" && !strings.Contains(pattern, "."):
			return fmt.Errorf("%q is no resource: write *.* for all resources, or *. for those of the core group", pattern)
		case name != "*" && strings.Contains(pattern, "*") && group != "*":
			return fmt.Errorf("%q is no resource: a * stands for a whole name or group", pattern)
		}
	}
	return nil
}

// Matches reports whether a resource is selected.
func (s Selection) Matches(r Resource) bool {
	return slices.ContainsFunc(s, func(pattern string) bool {
		name, group, _ := strings.Cut(pattern, ".")
		return (name == "*" || name == r.Name) && (group == r.Group || group == "*")
	})
}

// Prefixes are the parts of etcd with all that is selected, without repetition; each ends in a
// slash.
func (k Keys) Prefixes(s Selection) []string {
	var all []string
	renamed := folders()
	for _, pattern := range s {
		name, group, _ := strings.Cut(pattern, ".")
		names, known := k.groups[group]
		switch {
		case group == "*":
			return []string{k.prefix}
		case name == "*" && known:
			for _, name := range names {
				all = append(all, k.prefix+cmp.Or(renamed[name], name)+"/")
			}
		case name == "*":
			all = append(all, k.prefix+group+"/")
		case known:
			all = append(all, k.prefix+cmp.Or(renamed[name], name)+"/")
		default:
			all = append(all, k.prefix+group+"/"+name+"/")
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(p string) bool {
		return slices.ContainsFunc(all, func(other string) bool { return p != other && strings.HasPrefix(p, other) })
	})
}
