// Package setting gives the operator's settings their names: the flag, and the chart's value, which
// most operators set.
package setting

import "maps"

// values are the chart's values by the flags that they set.
var values = map[string]string{
	"--akeyless-allowed-addresses": "akeyless.allowedAddresses",
	"--allow-local-addresses":      "allowLocalAddresses",
	"--class-file-dirs":            "classFiles",
	"--max-call-recv-msg-size":     "providerPlugins.maxMessageSize",
	"--max-volume-inode-limit":     "volume.maxInodeLimit",
	"--max-volume-size-limit":      "volume.maxSizeLimit",
	"--memory-budget":              "memory.budget",
	"--min-refresh-interval":       "refresh.minInterval",
	"--namespace-memory-limit":     "memory.namespaceLimit",
	"--namespace-state-limit":      "memory.namespaceStateLimit",
	"--provider-audiences":         "providerPlugins.audiences",
	"--provider-timeout":           "providerPlugins.timeout",
	"--provider-volume":            "providerPlugins.enabled",
	"--rollout-restart":            "rolloutRestart.enabled",
	"--state-size-limit":           "memory.stateSize",
	"--strict-classes":             "strictClasses",
	"--sync-secrets":               "syncSecret.enabled",
	"--vault-allow-cert-auth":      "vault.allowCertAuth",
	"--vault-allowed-addresses":    "vault.allowedAddresses",
	"--vault-allowed-auth-mounts":  "vault.allowedAuthMountPaths",
	"--vault-tls-ca-cert":          "vault.tls.caConfigMap",
	"--volume-inode-limit":         "volume.inodeLimit",
	"--volume-memory-limit":        "memory.volumeLimit",
	"--volume-size-limit":          "volume.sizeLimit",
}

// Name returns a flag with the chart's value in brackets, such as "--memory-budget (chart:
// memory.budget)", or the flag alone if the chart has no value for it.
func Name(flag string) string {
	if value, ok := values[flag]; ok {
		return flag + " (chart: " + value + ")"
	}
	return flag
}

// All are the chart's values by flag.
func All() map[string]string { return maps.Clone(values) }
