package chart

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

func TestEverySetDecodes(t *testing.T) {
	for name := range valueSets {
		all := decode(t, renderSet(t, name))
		if len(all.daemonSets) != 1 || len(all.drivers) != 1 {
			t.Errorf("%s: %d DaemonSets and %d CSIDrivers, want one each", name, len(all.daemonSets), len(all.drivers))
		}
	}
}

func TestCSIDriver(t *testing.T) {
	tests := []struct {
		name, kubeVersion, set string
		inSecrets              bool
	}{
		{"default", newest, "", true},
		{"first version that can", "1.35.0", "", true},
		{"a vendor's spelling", "v1.35.2-gke.100", "", true},
		{"last version that cannot", "1.34.9", "", false},
		{"switched off", newest, "csiDriver.serviceAccountTokenInSecrets=false", false},
		{"switched on", "1.34.9", "csiDriver.serviceAccountTokenInSecrets=true", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec := decode(t, render(t, tt.kubeVersion, "--set", tt.set)).drivers[0].Spec
			if got := spec.ServiceAccountTokenInSecrets; (got != nil && *got) != tt.inSecrets {
				t.Errorf("serviceAccountTokenInSecrets is %v, want %v", got, tt.inSecrets)
			}
			if *spec.AttachRequired || !*spec.PodInfoOnMount || !*spec.RequiresRepublish || !*spec.SELinuxMount {
				t.Errorf("attachRequired %v, podInfoOnMount %v, requiresRepublish %v, seLinuxMount %v", *spec.AttachRequired, *spec.PodInfoOnMount, *spec.RequiresRepublish, *spec.SELinuxMount)
			}
			if !slices.Equal(spec.VolumeLifecycleModes, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}) {
				t.Errorf("volumeLifecycleModes %v", spec.VolumeLifecycleModes)
			}
			if len(spec.TokenRequests) != 1 || spec.TokenRequests[0].Audience != "vault" {
				t.Errorf("tokenRequests %v", spec.TokenRequests)
			}
		})
	}
}

// TestNoTokenRequests: the API server refuses serviceAccountTokenInSecrets
// without tokenRequests.
func TestNoTokenRequests(t *testing.T) {
	spec := decode(t, renderSet(t, "least")).drivers[0].Spec
	if spec.ServiceAccountTokenInSecrets != nil || spec.TokenRequests != nil {
		t.Errorf("serviceAccountTokenInSecrets %v, tokenRequests %v", spec.ServiceAccountTokenInSecrets, spec.TokenRequests)
	}
}

func TestPod(t *testing.T) {
	pod := decode(t, renderSet(t, "default")).daemonSets[0].Spec.Template.Spec
	if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
		t.Fatalf("%d containers and %d init containers, want one and none", len(pod.Containers), len(pod.InitContainers))
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Error("the pod shares a namespace with the node")
	}
	if pod.PriorityClassName != "system-node-critical" {
		t.Errorf("priority class %q", pod.PriorityClassName)
	}
	if profile := pod.SecurityContext.SeccompProfile; profile == nil || profile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("seccomp profile %v", profile)
	}
	container := pod.Containers[0]
	security := container.SecurityContext
	if !*security.ReadOnlyRootFilesystem || !slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("readOnlyRootFilesystem %v, dropped capabilities %v", *security.ReadOnlyRootFilesystem, security.Capabilities.Drop)
	}
	for name, probe := range map[string]*corev1.Probe{"/healthz": container.StartupProbe, "/readyz": container.ReadinessProbe} {
		if probe.HTTPGet.Path != name || probe.HTTPGet.Port.StrVal != "health" {
			t.Errorf("probe of %s asks %v", name, probe.HTTPGet)
		}
	}
	if container.LivenessProbe.HTTPGet.Path != "/healthz" {
		t.Errorf("liveness probe asks %s", container.LivenessProbe.HTTPGet.Path)
	}
}

// TestMounts: tmpfs mounts reach the node only through Bidirectional mounts,
// and the paths on both sides must be those that kubelet uses.
func TestMounts(t *testing.T) {
	for name, root := range map[string]string{"default": "/var/lib/kubelet", "everything": "/var/lib/k0s/kubelet"} {
		pod := decode(t, renderSet(t, name)).daemonSets[0].Spec.Template.Spec
		hosts := map[string]string{}
		for _, volume := range pod.Volumes {
			if volume.HostPath != nil {
				hosts[volume.Name] = volume.HostPath.Path
			}
		}
		both := map[string]string{}
		for _, mount := range pod.Containers[0].VolumeMounts {
			if mount.MountPropagation != nil && *mount.MountPropagation == corev1.MountPropagationBidirectional {
				both[mount.MountPath] = hosts[mount.Name]
			}
		}
		plugin := root + "/plugins/secrets-store.csi.k8s.io"
		want := map[string]string{"/csi": plugin, root + "/pods": root + "/pods"}
		if !maps.Equal(both, want) {
			t.Errorf("%s: Bidirectional mounts %v, want %v", name, both, want)
		}
		if hosts["registration"] != root+"/plugins_registry" {
			t.Errorf("%s: registration at %s", name, hosts["registration"])
		}
		if arg := "--kubelet-registration-path=" + plugin + "/csi.sock"; !slices.Contains(pod.Containers[0].Args, arg) {
			t.Errorf("%s: no argument %s", name, arg)
		}
	}
}

// TestSideBySide: two releases under two names share no object's name.
func TestSideBySide(t *testing.T) {
	first := decode(t, renderSet(t, "default"))
	manifests, err := runHelm(t, "template", "mayfly-beside", chartDir, "--kube-version="+newest, "--values=testdata/side-by-side.values.yaml")
	if err != nil {
		t.Fatalf("%v: %s", err, manifests)
	}
	second := decode(t, manifests)
	if second.drivers[0].Name != "mayfly.secrets-store.csi.k8s.io" || second.drivers[0].Name == first.drivers[0].Name {
		t.Errorf("both drivers are called %s", second.drivers[0].Name)
	}
	taken := map[string]bool{}
	for _, role := range first.clusterRoles {
		taken[role.Name] = true
	}
	for _, role := range second.clusterRoles {
		if taken[role.Name] {
			t.Errorf("both releases hold the ClusterRole %s", role.Name)
		}
	}
	if len(second.others) != 0 {
		t.Errorf("crds.install=false renders %v", second.kinds())
	}
	if strings.Contains(manifests, "plugins/secrets-store.csi.k8s.io") {
		t.Error("the second driver uses the first one's folder")
	}
}

// TestCRDs: an uninstall must not delete every SecretProviderClass.
func TestCRDs(t *testing.T) {
	for _, set := range []string{"crds.install=auto", "crds.install=true"} {
		all := decode(t, render(t, newest, "--set", set))
		if got := all.kinds()["CustomResourceDefinition"]; got != 2 {
			t.Fatalf("%s: %d CRDs, want 2", set, got)
		}
		for _, crd := range all.others {
			if crd.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s: %s is deleted with the release", set, crd.GetName())
			}
		}
	}
}

func TestOptionalObjects(t *testing.T) {
	least, most := decode(t, renderSet(t, "default")), decode(t, renderSet(t, "everything"))
	if len(least.policies)+len(least.services) != 0 || least.kinds()["PodMonitor"]+least.kinds()["ServiceMonitor"] != 0 {
		t.Error("objects for the metrics or the network are rendered unasked")
	}
	if len(most.policies) != 1 || len(most.services) != 1 || most.kinds()["PodMonitor"] != 1 || most.kinds()["ServiceMonitor"] != 1 {
		t.Errorf("%d NetworkPolicies, %d Services, others %v", len(most.policies), len(most.services), most.kinds())
	}
	if port := most.policies[0].Spec.Ingress[0].Ports[0].Port.IntValue(); port != 18095 {
		t.Errorf("the NetworkPolicy opens port %d, the metrics are at 18095", port)
	}
}
