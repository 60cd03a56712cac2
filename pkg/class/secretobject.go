package class

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// serviceAccountToken is the type of a Secret that Kubernetes itself fills with a token: with write
// access to one, a tenant could become that service account.
const serviceAccountToken = "kubernetes.io/service-account-token"

// takeSecretObjects sets the entries that can become a Secret and returns a warning for each
// mistake in the others.
func (c *Class) takeSecretObjects(objects []v1.SecretObject) []string {
	var warnings []string
	size := 0
	for i := range objects {
		size += sizeOf(&objects[i])
	}
	if size > maxSecretObjects {
		return []string{fmt.Sprintf("spec.secretObjects: takes %d bytes, of which a class may have %d (no Secret is made)", size, maxSecretObjects)}
	}
	seen := map[string]int{}
	for i := range objects {
		o := &objects[i]
		path := field.NewPath("spec", "secretObjects").Index(i)
		bad := checkSecretObject(path, o, c.SecretTemplates != "")
		if first, dup := seen[o.SecretName]; dup && o.SecretName != "" {
			bad = append(bad, field.Invalid(path.Child("secretName"), clip(o.SecretName), fmt.Sprintf("is that of spec.secretObjects[%d] too", first)))
		} else {
			seen[o.SecretName] = i
		}
		for _, e := range bad {
			warnings = append(warnings, e.Error()+" (this Secret is not made)")
		}
		if len(bad) == 0 {
			c.SecretObjects = append(c.SecretObjects, *o.DeepCopy())
		}
	}
	return warnings
}

// sizeOf estimates how many bytes of memory an entry takes.
func sizeOf(o *v1.SecretObject) int {
	const entry, each = 128, 32 // for an entry of the list, and for a value in it
	size := entry + len(o.SecretName) + len(o.Type)
	for _, m := range []map[string]string{o.Labels, o.Annotations} {
		for key, value := range m {
			size += each + len(key) + len(value)
		}
	}
	for _, d := range o.Data {
		size += each + len(d.ObjectName) + len(d.Key)
	}
	return size
}

// checkSecretObject checks an entry. templates says that the class has some, which may make the
// entry's keys.
func checkSecretObject(path *field.Path, o *v1.SecretObject, templates bool) field.ErrorList {
	var bad field.ErrorList
	if o.SecretName == "" {
		bad = append(bad, field.Required(path.Child("secretName"), ""))
	} else {
		bad = append(bad, invalid(path.Child("secretName"), o.SecretName, utilvalidation.IsDNS1123Subdomain(o.SecretName))...)
	}
	switch {
	case o.Type == "":
		bad = append(bad, field.Required(path.Child("type"), "such as Opaque or kubernetes.io/tls"))
	case o.Type == serviceAccountToken:
		bad = append(bad, field.Forbidden(path.Child("type"), "a Secret of type "+serviceAccountToken+" is filled by Kubernetes"))
	case len(o.Type) > utilvalidation.DNS1123SubdomainMaxLength:
		bad = append(bad, field.TooLong(path.Child("type"), "", utilvalidation.DNS1123SubdomainMaxLength))
	}
	bad = append(bad, metavalidation.ValidateLabels(o.Labels, path.Child("labels"))...)
	bad = append(bad, validation.ValidateAnnotations(o.Annotations, path.Child("annotations"))...)
	return append(bad, checkSecretData(path.Child("data"), o.Data, templates)...)
}

func checkSecretData(path *field.Path, data []v1.SecretObjectData, templates bool) field.ErrorList {
	var bad field.ErrorList
	if len(data) == 0 && !templates {
		bad = append(bad, field.Required(path, "name at least one file and its key"))
	}
	seen := map[string]bool{}
	for i, d := range data {
		if d.ObjectName == "" {
			bad = append(bad, field.Required(path.Index(i).Child("objectName"), ""))
		}
		key := path.Index(i).Child("key")
		switch {
		case d.Key == "":
			bad = append(bad, field.Required(key, ""))
		case seen[d.Key]:
			bad = append(bad, field.Duplicate(key, clip(d.Key)))
		default:
			bad = append(bad, invalid(key, d.Key, utilvalidation.IsConfigMapKey(d.Key))...)
		}
		seen[d.Key] = true
	}
	return bad
}
