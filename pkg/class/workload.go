package class

import (
	"fmt"
	"slices"
	"strings"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxWorkloads is how many workloads a class may have restarted.
const maxWorkloads = 20

// Workload names something in the class's namespace that makes pods.
type Workload struct{ Kind, Name string }

// String is kind/name.
func (w Workload) String() string { return w.Kind + "/" + w.Name }

// WorkloadKinds are the kinds that can be restarted.
func WorkloadKinds() []string { return []string{"Deployment", "StatefulSet", "DaemonSet"} }

// takeWorkloads reads a list such as "Deployment/web, StatefulSet/db".
func takeWorkloads(c *Class, path *field.Path, value string) *field.Error {
	var list []Workload
	for _, text := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		kind, name, _ := strings.Cut(text, "/")
		switch {
		case !slices.Contains(WorkloadKinds(), kind):
			return field.Invalid(path, clip(text), fmt.Sprintf("must be kind/name, where the kind is one of %q, such as Deployment/web", WorkloadKinds()))
		case len(utilvalidation.IsDNS1123Subdomain(name)) > 0:
			return field.Invalid(path, clip(text), "must be kind/name, such as Deployment/web: the name is none that an object can have")
		case slices.Contains(list, Workload{kind, name}):
			return field.Duplicate(path, clip(text))
		}
		list = append(list, Workload{kind, name})
	}
	if len(list) > maxWorkloads {
		return field.TooMany(path, len(list), maxWorkloads)
	}
	c.RolloutRestart = list
	return nil
}
