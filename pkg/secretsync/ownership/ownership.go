// Package ownership says to whom a Kubernetes Secret belongs, by its metadata alone: for the driver,
// which writes the Secrets of classes, and for programs that look at them.
package ownership

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// MaxManager is the API server's limit for the name of a field manager, in bytes.
const MaxManager = 128

// Manager returns the field manager of the Secrets of a class.
func Manager(class string) string { return names.Shorten("mayfly:"+class, MaxManager) }

// EntryOf returns what the driver has applied for a class; nil if the class has not made the
// Secret.
func EntryOf(found *metav1.PartialObjectMetadata, class string) *metav1.ManagedFieldsEntry {
	manager := Manager(class)
	i := slices.IndexFunc(found.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == manager && m.Operation == metav1.ManagedFieldsOperationApply && m.Subresource == ""
	})
	if i < 0 {
		return nil
	}
	return &found.ManagedFields[i]
}

// Owners names those to whom a Secret belongs: its class, owners and field managers.
func Owners(found *metav1.PartialObjectMetadata) string {
	var who []string
	if class := found.Labels[names.ClassLabel]; class != "" {
		who = append(who, fmt.Sprintf("SecretProviderClass %q", class))
	} else if found.Labels[names.ManagedLabel] == "true" {
		who = append(who, "the Secrets Store CSI driver")
	}
	for _, o := range found.OwnerReferences {
		who = append(who, fmt.Sprintf("owner %s %q", o.Kind, o.Name))
	}
	for _, m := range found.ManagedFields {
		who = append(who, fmt.Sprintf("field manager %q", m.Manager))
	}
	const most = 5
	slices.Sort(who)
	who = slices.Compact(who)
	if len(who) > most {
		who = append(who[:most:most], fmt.Sprintf("and %d more", len(who)-most))
	}
	if len(who) == 0 {
		return "an unknown client: it has neither owner nor field manager"
	}
	return strings.Join(who, ", ")
}
