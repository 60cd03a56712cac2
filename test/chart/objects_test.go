package chart

import (
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
)

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
