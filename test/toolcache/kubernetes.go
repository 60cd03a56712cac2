package toolcache

// The version in test/cluster/go.mod. Programs built outside of Kubernetes' own build report v0.0.0
// unless the linker sets it.
const (
	KubernetesVersion = "v1.37.2"
	kubernetesMajor   = "1"
	kubernetesMinor   = "37"
)

// kubernetesTools are the programs of the node that test/node runs.
func kubernetesTools() []Tool {
	names := []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"}
	tools := make([]Tool, 0, len(names))
	for _, name := range names {
		tools = append(tools, Tool{
			Name:      name,
			ModuleDir: "test/cluster",
			Package:   "k8s.io/kubernetes/cmd/" + name,
			LDFlags:   kubernetesFlags(),
		})
	}
	return tools
}

func kubernetesFlags() []string {
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+KubernetesVersion,
			"-X", pkg+".gitMajor="+kubernetesMajor,
			"-X", pkg+".gitMinor="+kubernetesMinor)
	}
	return flags
}
