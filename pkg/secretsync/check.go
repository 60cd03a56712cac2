package secretsync

import (
	"encoding/json"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
)

// partOf returns the part of a file for a key: one file may have both certificate and key
// of a TLS Secret.
func partOf(secretType, key string, contents []byte) ([]byte, error) {
	if secretType != corev1.SecretTypeTLS {
		return contents, nil
	}
	switch key {
	case corev1.TLSCertKey:
		return certificatesOf(contents)
	case corev1.TLSPrivateKeyKey:
		return privateKeyOf(contents)
	}
	return contents, nil
}

// check refuses what the API server, or the readers of such a Secret, would refuse.
func check(secretType string, data map[string][]byte) error {
	size := 0
	for _, value := range data {
		size += len(value)
	}
	if size > maxData {
		return fault.New(fault.TooLarge, "the values take %d bytes, and a Kubernetes Secret may have %d", size, maxData)
	}
	switch secretType {
	case corev1.SecretTypeTLS:
		return checkPair(data)
	case corev1.SecretTypeDockerConfigJSON:
		return checkDocker(data, corev1.DockerConfigJSONKey, "auths")
	case corev1.SecretTypeDockercfg:
		return checkDocker(data, corev1.DockerConfigKey, "")
	case corev1.SecretTypeBasicAuth:
		if len(data[corev1.BasicAuthUsernameKey]) == 0 && len(data[corev1.BasicAuthPasswordKey]) == 0 {
			return missing(secretType, corev1.BasicAuthUsernameKey+" or "+corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(data[corev1.SSHAuthPrivateKey]) == 0 {
			return missing(secretType, corev1.SSHAuthPrivateKey)
		}
	}
	return nil
}

func missing(secretType, key string) error {
	return fault.New(fault.InvalidClass, "type %s needs the key %s with something in it", secretType, key)
}

// checkDocker requires a JSON object, with an object of that name in it unless that is
// empty.
func checkDocker(data map[string][]byte, key, within string) error {
	if len(data[key]) == 0 {
		return missing("for a registry", key)
	}
	var config map[string]json.RawMessage
	if json.Unmarshal(data[key], &config) != nil || config == nil { // the error may quote the value
		return fault.New(fault.InvalidClass, "key %s: not a JSON object", key)
	}
	if within == "" {
		return nil
	}
	var auths map[string]json.RawMessage
	if json.Unmarshal(config[within], &auths) != nil || len(auths) == 0 {
		return fault.New(fault.InvalidClass, "key %s: the JSON object has no %q with a registry in it", key, within)
	}
	return nil
}
