package main

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

const objects = `- objectName: db/username
  secretPath: kv/data/CLASS/db
  secretKey: username
- objectName: db/password
  secretPath: kv/data/CLASS/db
  secretKey: password
  filePermission: 0400
- objectName: api-key
  secretPath: kv/data/CLASS/api
  secretKey: key
`

// manifest is a class as the API server has it.
func manifest(namespace, name, address, interval string) []byte {
	class := v1.SecretProviderClass{
		TypeMeta: metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name), ResourceVersion: "1000", Generation: 1,
			Labels: map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
			Annotations: map[string]string{
				"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace,
			},
		},
		Spec: v1.SecretProviderClassSpec{Provider: "vault", Parameters: map[string]string{
			"vaultAddress": address, "roleName": role, "objects": strings.ReplaceAll(objects, "CLASS", name),
		}},
	}
	if interval != "" {
		class.Spec.Parameters["refreshInterval"] = interval
	}
	data, err := json.Marshal(class)
	if err != nil {
		panic(fmt.Sprintf("bench: encoding a class: %v", err)) // plain data
	}
	return data
}
