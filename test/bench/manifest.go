package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/apiserver"
)

// The objects of the classes: always the same three files, from two secrets
// where the store knows secrets of several values.
const (
	vaultObjects = `- objectName: db/username
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
	akeylessObjects = `- fileName: db/username
  secretPath: /CLASS/db
  secretType: static
  secretKey: username
- fileName: db/password
  secretPath: /CLASS/db
  secretType: static
  secretKey: password
  filePermission: 0400
- fileName: api-key
  secretPath: /CLASS/api
  secretType: rotated
  secretKey: key
`
	pluginObjects = `- objectName: username
  path: db/username
- objectName: password
  path: db/password
  mode: 256
- objectName: key
  path: api-key
`
)

// madeTemplates is the template of the classes that have one.
const madeTemplates = `- fileName: dsn
  text: 'db://{{ urlUserinfo (secret "db/username") }}:{{ urlUserinfo (secret "db/password") }}@db'
`

// madeSecret is the Kubernetes Secret of such a class.
func madeSecret(class string) v1.SecretObject {
	return v1.SecretObject{SecretName: class, Type: "Opaque", Data: []v1.SecretObjectData{
		{ObjectName: "dsn", Key: "DSN"}, {ObjectName: "db/username", Key: "USERNAME"}, {ObjectName: "db/password", Key: "PASSWORD"},
	}}
}

// vaultParameters are for a Vault at an address. An empty interval leaves it
// to the driver.
func vaultParameters(class, address, interval string) map[string]string {
	p := map[string]string{"vaultAddress": address, "roleName": role, "objects": strings.ReplaceAll(vaultObjects, "CLASS", class)}
	if interval != "" {
		p["refreshInterval"] = interval
	}
	return p
}

func akeylessParameters(class, gateway string) map[string]string {
	return map[string]string{
		"akeylessGatewayURL": gateway, "akeylessAccessType": "k8s", "akeylessAccessID": accessID,
		"akeylessK8sAuthConfigName": authConfig, "objects": strings.ReplaceAll(akeylessObjects, "CLASS", class),
	}
}

func pluginParameters() map[string]string { return map[string]string{"objects": pluginObjects} }

// perNamespace is how many unrelated classes a namespace has.
const perNamespace = 10

// startAPI serves this node's classes among others that it has no use for.
func (w *world) startAPI(ctx context.Context) (cluster, error) {
	classes := withUnrelated(w.manifests(), w.config.classes)
	if !w.realAPIServer {
		return double{apiserver.Start(classes)}, nil
	}
	r, err := startReal(ctx, filepath.Join(w.dir, "cluster"), classes)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func withUnrelated(ours map[string][]byte, unrelated int) map[apiserver.Key][]byte {
	classes := map[apiserver.Key][]byte{}
	for name, data := range ours {
		classes[apiserver.Key{Namespace: namespace, Name: name}] = data
	}
	for i := range unrelated {
		key := apiserver.Key{Namespace: fmt.Sprintf("team-%04d", i/perNamespace), Name: fmt.Sprintf("app-%05d", i)}
		classes[key] = manifest(key.Namespace, key.Name, "vault", vaultParameters(key.Name, "https://vault.example:8200", ""))
	}
	return classes
}

// manifest is a class as the API server stores it.
func manifest(namespace, name, provider string, parameters map[string]string, secrets ...v1.SecretObject) []byte {
	class := v1.SecretProviderClass{
		TypeMeta: metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name), ResourceVersion: "1000", Generation: 1,
			Labels: map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
			Annotations: map[string]string{
				"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace,
			},
		},
		Spec: v1.SecretProviderClassSpec{Provider: provider, Parameters: parameters, SecretObjects: secrets},
	}
	data, err := json.Marshal(class)
	if err != nil {
		panic(fmt.Sprintf("bench: encoding a class: %v", err)) // plain data
	}
	return data
}
