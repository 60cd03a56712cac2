package ownership_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/secretsync/ownership"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// TestOwnership: a Secret is a class's only if the class has applied it, whatever its labels say.
func TestOwnership(t *testing.T) {
	long := strings.Repeat("a", 253)
	field := func(manager string, operation metav1.ManagedFieldsOperationType, subresource string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, Subresource: subresource}
	}
	for name, tc := range map[string]struct {
		class  string
		labels map[string]string
		fields []metav1.ManagedFieldsEntry
		owners []metav1.OwnerReference
		own    bool
		who    string
	}{
		"of the class": {class: "db", labels: map[string]string{names.ClassLabel: "db"}, fields: []metav1.ManagedFieldsEntry{field("x", "Update", ""), field("mayfly:db", "Apply", "")}, own: true,
			who: `SecretProviderClass "db", field manager "mayfly:db", field manager "x"`},
		"a long name":           {class: long, fields: []metav1.ManagedFieldsEntry{field(ownership.Manager(long), "Apply", "")}, own: true, who: `field manager "` + ownership.Manager(long) + `"`},
		"of another class":      {class: "db", labels: map[string]string{names.ClassLabel: "web"}, fields: []metav1.ManagedFieldsEntry{field("mayfly:web", "Apply", "")}, who: `SecretProviderClass "web", field manager "mayfly:web"`},
		"a label alone":         {class: "db", labels: map[string]string{names.ClassLabel: "db"}, who: `SecretProviderClass "db"`},
		"an update of the name": {class: "db", fields: []metav1.ManagedFieldsEntry{field("mayfly:db", "Update", "")}, who: `field manager "mayfly:db"`},
		"a subresource":         {class: "db", fields: []metav1.ManagedFieldsEntry{field("mayfly:db", "Apply", "status")}, who: `field manager "mayfly:db"`},
		"of the incumbent": {class: "db", labels: map[string]string{names.ManagedLabel: "true"}, owners: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web"}},
			who: `owner ReplicaSet "web", the Secrets Store CSI driver`},
		"of many": {class: "db", fields: []metav1.ManagedFieldsEntry{field("a", "Update", ""), field("b", "Update", ""), field("b", "Apply", ""), field("c", "Update", ""), field("d", "Update", ""), field("e", "Update", ""), field("f", "Update", "")},
			who: `field manager "a", field manager "b", field manager "c", field manager "d", field manager "e", and 1 more`},
		"of nobody": {class: "db", who: "an unknown client: it has neither owner nor field manager"},
	} {
		t.Run(name, func(t *testing.T) {
			found := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels, ManagedFields: tc.fields, OwnerReferences: tc.owners}}
			if own := ownership.EntryOf(found, tc.class) != nil; own != tc.own {
				t.Errorf("of the class: %t", own)
			}
			if who := ownership.Owners(found); who != tc.who {
				t.Errorf("belongs to %s, want %s", who, tc.who)
			}
		})
	}
	if m := ownership.Manager(long); len(m) > ownership.MaxManager {
		t.Errorf("a manager of %d bytes", len(m))
	}
}
