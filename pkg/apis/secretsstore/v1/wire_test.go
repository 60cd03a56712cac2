package v1_test

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestWire checks that other drivers and their tools can read the objects.
func TestWire(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "a", Namespace: "ns"}
	kind := func(k string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: "secrets-store.csi.x-k8s.io/v1", Kind: k}
	}
	for want, object := range map[string]any{
		`{"kind":"SecretProviderClass","apiVersion":"secrets-store.csi.x-k8s.io/v1","metadata":{"name":"a","namespace":"ns"},` +
			`"spec":{"provider":"vault","parameters":{"k":"v"},"secretObjects":[{"secretName":"s","type":"Opaque","labels":{"l":"1"},` +
			`"annotations":{"n":"2"},"data":[{"objectName":"o","key":"k"}]}]}}`: v1.SecretProviderClass{
			TypeMeta: kind("SecretProviderClass"), ObjectMeta: meta,
			Spec: v1.SecretProviderClassSpec{
				Provider: "vault", Parameters: map[string]string{"k": "v"},
				SecretObjects: []v1.SecretObject{{
					SecretName: "s", Type: "Opaque", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"n": "2"},
					Data: []v1.SecretObjectData{{ObjectName: "o", Key: "k"}},
				}},
			},
		},
		`{"kind":"SecretProviderClassPodStatus","apiVersion":"secrets-store.csi.x-k8s.io/v1","metadata":{"name":"a","namespace":"ns"},` +
			`"status":{"podName":"p","secretProviderClassName":"c","mounted":true,"targetPath":"/t","failing":false,"objects":[{"id":"i","version":"v"}]}}`: v1.SecretProviderClassPodStatus{
			TypeMeta: kind("SecretProviderClassPodStatus"), ObjectMeta: meta,
			Status: v1.SecretProviderClassPodStatusStatus{
				PodName: "p", SecretProviderClassName: "c", Mounted: true, TargetPath: "/t",
				Objects: []v1.SecretProviderClassObject{{ID: "i", Version: "v"}},
			},
		},
	} {
		got := testkit.Value(json.Marshal(object))(t)
		testkit.Equal(t, "the object in JSON", string(got), want)
	}
}

func TestAddToScheme(t *testing.T) {
	s := runtime.NewScheme()
	testkit.Must(t, v1.AddToScheme(s))
	for _, kind := range []string{"SecretProviderClass", "SecretProviderClassList", "SecretProviderClassPodStatus", "SecretProviderClassPodStatusList"} {
		if _, err := s.New(v1.GroupVersion().WithKind(kind)); err != nil {
			t.Error(err)
		}
	}
}
