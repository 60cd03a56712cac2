package corev1_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	api "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// An Event is in JSON what k8s.io/api makes of it, and has its fields.
func TestEventIsKubernetes(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Local())
	in := corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: "shop", Name: "web-0.17", ResourceVersion: "5", Labels: map[string]string{"a": "b"}},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web-0", UID: "1-2", APIVersion: "v1"},
		Reason:         "FailedMount", Message: "no", Source: corev1.EventSource{Component: "mayfly", Host: "node-1"},
		FirstTimestamp: at, LastTimestamp: at, Count: 3, Type: corev1.EventTypeWarning,
		ReportingController: "mayfly.dev", ReportingInstance: "node-1",
	}
	for v, i := reflect.ValueOf(in), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("the test leaves %s out", v.Type().Field(i).Name)
		}
	}
	text := testkit.Value(json.Marshal(in))(t)
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	var there api.Event
	testkit.Must(t, strict.Decode(&there))
	text = testkit.Value(json.Marshal(there))(t)
	var back corev1.Event
	testkit.Must(t, json.Unmarshal(text, &back))
	testkit.Equal(t, "back from k8s.io/api", back, in)
	if copied := in.DeepCopyObject(); !reflect.DeepEqual(copied, &in) {
		t.Errorf("a copy: %+v", copied)
	}
	in.DeepCopy().Labels["a"] = "other"
	testkit.Equal(t, "a copy shares the labels", in.Labels["a"], "b")
}

func TestConstantsAreKubernetes(t *testing.T) {
	for _, c := range [][2]string{
		{corev1.SchemeGroupVersion.String(), api.SchemeGroupVersion.String()},
		{corev1.EventTypeNormal, api.EventTypeNormal},
		{corev1.EventTypeWarning, api.EventTypeWarning},
		{string(corev1.NamespaceTerminatingCause), string(api.NamespaceTerminatingCause)},
		{corev1.SecretTypeTLS, string(api.SecretTypeTLS)},
		{corev1.TLSCertKey, api.TLSCertKey},
		{corev1.TLSPrivateKeyKey, api.TLSPrivateKeyKey},
		{corev1.SecretTypeDockerConfigJSON, string(api.SecretTypeDockerConfigJson)},
		{corev1.DockerConfigJSONKey, api.DockerConfigJsonKey},
		{corev1.SecretTypeDockercfg, string(api.SecretTypeDockercfg)},
		{corev1.DockerConfigKey, api.DockerConfigKey},
		{corev1.SecretTypeBasicAuth, string(api.SecretTypeBasicAuth)},
		{corev1.BasicAuthUsernameKey, api.BasicAuthUsernameKey},
		{corev1.BasicAuthPasswordKey, api.BasicAuthPasswordKey},
		{corev1.SecretTypeSSHAuth, string(api.SecretTypeSSHAuth)},
		{corev1.SSHAuthPrivateKey, api.SSHAuthPrivateKey},
	} {
		testkit.Equal(t, "the constant, and Kubernetes'", c[0], c[1])
	}
}
