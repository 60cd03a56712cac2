// Package corev1 has the parts of the core API group that the driver reads and writes. They are
// those of k8s.io/api/core/v1, with the same names in Go and JSON: importing that package links
// all of its kinds with their methods, which would be a seventh of the driver.
package corev1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// SchemeGroupVersion is the core group's.
var SchemeGroupVersion = schema.GroupVersion{Version: "v1"}

// Types of Events.
const (
	EventTypeNormal  = "Normal"
	EventTypeWarning = "Warning"
)

// NamespaceTerminatingCause is the cause in an API server's refusal to create an object in a
// namespace that is being deleted.
const NamespaceTerminatingCause metav1.CauseType = "NamespaceTerminating"

// Event is what kubectl describe shows under Events.
type Event struct {
	metav1.TypeMeta     `json:",inline"`
	metav1.ObjectMeta   `json:"metadata"`
	InvolvedObject      ObjectReference `json:"involvedObject"`
	Reason              string          `json:"reason,omitempty"`
	Message             string          `json:"message,omitempty"`
	Source              EventSource     `json:"source,omitempty"`
	FirstTimestamp      metav1.Time     `json:"firstTimestamp,omitempty"`
	LastTimestamp       metav1.Time     `json:"lastTimestamp,omitempty"`
	Count               int32           `json:"count,omitempty"`
	Type                string          `json:"type,omitempty"`
	ReportingController string          `json:"reportingComponent"`
	ReportingInstance   string          `json:"reportingInstance"`
}

// EventSource is the program that writes an Event, and its node.
type EventSource struct {
	Component string `json:"component,omitempty"`
	Host      string `json:"host,omitempty"`
}

// ObjectReference names the object of an Event.
type ObjectReference struct {
	Kind       string    `json:"kind,omitempty"`
	Namespace  string    `json:"namespace,omitempty"`
	Name       string    `json:"name,omitempty"`
	UID        types.UID `json:"uid,omitempty"`
	APIVersion string    `json:"apiVersion,omitempty"`
}

// DeepCopy copies an Event.
func (e *Event) DeepCopy() *Event {
	c := *e
	e.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	e.FirstTimestamp.DeepCopyInto(&c.FirstTimestamp)
	e.LastTimestamp.DeepCopyInto(&c.LastTimestamp)
	return &c
}

// DeepCopyObject is DeepCopy, for runtime.Object.
func (e *Event) DeepCopyObject() runtime.Object { return e.DeepCopy() }

// Types of Secrets, and the keys that each must have.
const (
	SecretTypeTLS              = "kubernetes.io/tls"
	TLSCertKey                 = "tls.crt"
	TLSPrivateKeyKey           = "tls.key"
	SecretTypeDockerConfigJSON = "kubernetes.io/dockerconfigjson"
	DockerConfigJSONKey        = ".dockerconfigjson"
	SecretTypeDockercfg        = "kubernetes.io/dockercfg"
	DockerConfigKey            = ".dockercfg"
	SecretTypeBasicAuth        = "kubernetes.io/basic-auth"
	BasicAuthUsernameKey       = "username"
	BasicAuthPasswordKey       = "password"
	SecretTypeSSHAuth          = "kubernetes.io/ssh-auth"
	SSHAuthPrivateKey          = "ssh-privatekey"
)
