package cluster

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// attributeClass is the volume attribute that names a class.
	attributeClass = "secretProviderClass"
	// DriverContainerName is the chart's name of the driver's container.
	DriverContainerName = "mayfly-node"
	envPrefix           = "MAYFLY_"
)

// ClassesOf are the classes that a pod's volumes of a driver name.
func ClassesOf(spec *corev1.PodSpec, driver string) []string {
	var names []string
	for i := range spec.Volumes {
		if csi := spec.Volumes[i].CSI; csi != nil && csi.Driver == driver {
			names = append(names, csi.VolumeAttributes[attributeClass])
		}
	}
	return names
}

// AccountOf is the service account of a pod.
func AccountOf(spec *corev1.PodSpec) string {
	if spec.ServiceAccountName == "" {
		return "default"
	}
	return spec.ServiceAccountName
}

// DriverContainer is the driver's container in its pod; nil if there is none.
func DriverContainer(spec *corev1.PodSpec) *corev1.Container {
	for i := range spec.Containers {
		if c := &spec.Containers[i]; c.Name == DriverContainerName || len(spec.Containers) == 1 {
			return c
		}
	}
	return nil
}

// DriverFlags are the flags of the driver's container by name, without dashes, from its arguments
// and its environment. A flag without a value is "true".
func DriverFlags(c *corev1.Container) map[string]string {
	flags := map[string]string{}
	for _, e := range c.Env {
		if name, ok := strings.CutPrefix(e.Name, envPrefix); ok {
			flags[strings.ToLower(strings.ReplaceAll(name, "_", "-"))] = e.Value
		}
	}
	args := slices.Concat(c.Command, c.Args)
	for i := 0; i < len(args); i++ {
		name, dashed := strings.CutPrefix(args[i], "-")
		if !dashed {
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(name, "-"), "=")
		switch {
		case given:
		case i+1 < len(args) && (!strings.HasPrefix(args[i+1], "-") || args[i+1] == "-"):
			i++
			value = args[i]
		default:
			value = "true"
		}
		flags[name] = value
	}
	return flags
}
