package chart

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
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

// valueSets are the value files in testdata, each with the Kubernetes version
// that it is rendered for.
var valueSets = map[string]string{
	"default":        newest,
	"old-kubernetes": "1.34.9",
	"everything":     newest,
	"side-by-side":   newest,
	"least":          newest,
}

func renderSet(t *testing.T, name string, args ...string) string {
	t.Helper()
	return render(t, valueSets[name], append([]string{"--values", filepath.Join("testdata", name+".values.yaml")}, args...)...)
}

func TestGolden(t *testing.T) {
	for name := range valueSets {
		t.Run(name, func(t *testing.T) {
			golden(t, filepath.Join("testdata", name+".golden.yaml"), renderSet(t, name))
		})
	}
}

func TestEveryValueFileIsTested(t *testing.T) {
	files := testkit.Value(filepath.Glob("testdata/*.values.yaml"))(t)
	if len(files) != len(valueSets) {
		t.Errorf("%d value files in testdata, %d tested", len(files), len(valueSets))
	}
}

// objects are the parts of a release. Kinds with an API type in this module are decoded strictly,
// so an unknown field is a failure.
type objects struct {
	daemonSets   []appsv1.DaemonSet
	drivers      []storagev1.CSIDriver
	clusterRoles []rbacv1.ClusterRole
	bindings     []rbacv1.ClusterRoleBinding
	accounts     []corev1.ServiceAccount
	services     []corev1.Service
	pods         []corev1.Pod
	policies     []networkingv1.NetworkPolicy
	admission    []admissionv1.ValidatingAdmissionPolicy
	admitting    []admissionv1.ValidatingAdmissionPolicyBinding
	jobs         []batchv1.Job
	others       []unstructured.Unstructured
	// hooks are the objects of the check before an uninstall.
	hooks *objects
}

func decode(t *testing.T, manifests string) *objects {
	t.Helper()
	all := &objects{hooks: &objects{}}
	for _, document := range strings.Split("\n"+manifests, "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			t.Fatalf("decoding %q: %v", document, err)
		}
		if meta.Kind == "" {
			continue
		}
		if err := all.add(meta, []byte(document)); err != nil {
			t.Fatalf("decoding a %s: %v\n%s", meta.Kind, err, document)
		}
	}
	return all
}

func (o *objects) add(meta metav1.TypeMeta, document []byte) error {
	var head metav1.PartialObjectMetadata
	if err := yaml.Unmarshal(document, &head); err != nil {
		return err
	}
	if head.Annotations["helm.sh/hook"] == "pre-delete" && o.hooks != nil {
		return o.hooks.add(meta, document)
	}
	switch meta.APIVersion + " " + meta.Kind {
	case "apps/v1 DaemonSet":
		return into(&o.daemonSets, document)
	case "batch/v1 Job":
		return into(&o.jobs, document)
	case "storage.k8s.io/v1 CSIDriver":
		return into(&o.drivers, document)
	case "rbac.authorization.k8s.io/v1 ClusterRole":
		return into(&o.clusterRoles, document)
	case "rbac.authorization.k8s.io/v1 ClusterRoleBinding":
		return into(&o.bindings, document)
	case "v1 ServiceAccount":
		return into(&o.accounts, document)
	case "v1 Pod":
		return into(&o.pods, document)
	case "v1 Service":
		return into(&o.services, document)
	case "networking.k8s.io/v1 NetworkPolicy":
		return into(&o.policies, document)
	case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy":
		return into(&o.admission, document)
	case "admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding":
		return into(&o.admitting, document)
	}
	var object unstructured.Unstructured
	if err := yaml.Unmarshal(document, &object.Object); err != nil {
		return err
	}
	o.others = append(o.others, object)
	return nil
}

func into[T any](list *[]T, document []byte) error {
	var object T
	if err := yaml.UnmarshalStrict(document, &object); err != nil {
		return err
	}
	*list = append(*list, object)
	return nil
}

// kinds counts the objects without a type by kind.
func (o *objects) kinds() map[string]int {
	count := map[string]int{}
	for _, object := range o.others {
		count[object.GetKind()]++
	}
	return count
}

const (
	chartDir = "../../charts/mayfly"
	// newest is the default Kubernetes version for rendering manifests.
	newest = "1.37.2"
)

var (
	update = flag.Bool("update", false, "write the golden files, the schema's descriptions and docs/values.md")
	helm   string // path of the program
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if helm, err = toolcache.Get(context.Background(), os.Stderr, "helm"); err != nil {
		fmt.Fprintln(os.Stderr, "getting helm:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// tryRender is "helm template" with its output on a failure.
func tryRender(t *testing.T, kubeVersion string, args ...string) (manifests, failure string) {
	t.Helper()
	command := append([]string{"template", "mayfly", chartDir, "--namespace=kube-system", "--kube-version=" + kubeVersion}, args...)
	cmd := exec.CommandContext(t.Context(), helm, command...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "KUBECONFIG=/dev/null")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", err.Error() + "\n" + stderr.String()
	}
	return stdout.String(), ""
}

func render(t *testing.T, kubeVersion string, args ...string) string {
	t.Helper()
	manifests, failure := tryRender(t, kubeVersion, args...)
	if failure != "" {
		t.Fatalf("helm template %v: %s", args, failure)
	}
	return manifests
}

// golden compares with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		testkit.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		testkit.Must(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := bytes.Split([]byte(got), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range min(len(gotLines), len(wantLines)) {
		if !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Fatalf("%s:%d: want %q, got %q (-update writes it)", path, i+1, wantLines[i], gotLines[i])
		}
	}
	t.Fatalf("%s: want %d lines, got %d (-update writes it)", path, len(wantLines), len(gotLines))
}

func runHelm(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), helm, args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "KUBECONFIG=/dev/null")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
