package finding

// The codes of doctor.
const (
	CodeNotEncrypted      = "MF500"
	CodeWeakEncryption    = "MF501"
	CodeStaleEncryption   = "MF502"
	CodeReadsAll          = "MF503"
	CodeReadsNamespace    = "MF504"
	CodeCouldMount        = "MF505"
	CodeSecretInEnv       = "MF506"
	CodePlainText         = "MF507"
	CodeNoAudience        = "MF508"
	CodeServerToken       = "MF509"
	CodeDefaultAccount    = "MF510"
	CodeNoAudit           = "MF511"
	CodeNoAllowList       = "MF512"
	CodeNoDriver          = "MF513"
	CodeNodeWithoutDriver = "MF514"
	CodeMixedVersions     = "MF515"
	CodeCRDDiffers        = "MF516"
	CodeNoPolicy          = "MF517"
	CodeUnknownFlag       = "MF518"
	CodeBaselineOutdated  = "MF519"
	CodeSecretsOff        = "MF520"
	CodeSecretRefused     = "MF521"
	CodeSecretOfOther     = "MF522"
)

// doctorRules have the codes MF500 to MF599.
func doctorRules() []Rule {
	return []Rule{
		{CodeNotEncrypted, Error, "Secrets are not encrypted at rest", "give the API server an encryption configuration with a KMS v2 provider, and write all Secrets again"},
		{CodeWeakEncryption, Warning, "the key of the encryption at rest is stored near the data", "use a KMS v2 provider, whose key never leaves the key management system"},
		{CodeStaleEncryption, Warning, "some Secrets are encrypted with an old provider or key", "write all Secrets again, for example with a StorageVersionMigration"},
		{CodeReadsAll, Warning, "a subject reads the Secrets of all namespaces", "bind a role in the namespaces that it needs, or to single Secrets with resourceNames"},
		{CodeReadsNamespace, Info, "subjects read all Secrets of a namespace", "bind the role only to the subjects that need it, or to single Secrets with resourceNames"},
		{CodeCouldMount, Info, "classes could mount the content of Secrets", "move the content to the store, mount a class, and delete the Secret"},
		{CodeSecretInEnv, Warning, "a workload takes Secrets as environment variables", "mount them as files: variables go to child processes and crash reports, and do not follow rotations"},
		{CodePlainText, Error, "a credential is in plain text", "move it to the store and mount a class; then replace the credential, because this one was readable"},
		{CodeNoAudience, Error, "the CSIDriver does not request a class's audience", "add the audience to tokenRequests of the chart"},
		{CodeServerToken, Warning, "tokens for the API server go to the store", "use an audience of the store's own, and remove the empty one from tokenRequests"},
		{CodeDefaultAccount, Warning, "a workload with classes runs as the default service account", "give the workload a service account of its own, and bind the store's role to it"},
		{CodeNoAudit, Warning, "the audit trail is off", "set audit.path of the chart, to \"-\" for the standard output"},
		{CodeNoAllowList, Warning, "classes choose where tokens are sent", "name the servers in the flag or in the chart's value"},
		{CodeNoDriver, Error, "the driver is not installed", "install the chart, or name the driver with --driver-name and --driver-namespace"},
		{CodeNodeWithoutDriver, Error, "a node has no ready driver", "run kubectl describe for the driver's pod, and read its log"},
		{CodeMixedVersions, Warning, "drivers of several versions run", "finish the rollout: kubectl rollout status of the DaemonSet"},
		{CodeCRDDiffers, Warning, "a CRD differs from the driver's", "apply the CRDs of the driver's version: deploy/crds.yaml, or the chart with crds.install"},
		{CodeNoPolicy, Warning, "an admission policy of the chart is missing", "set rbac.admissionPolicy of the chart to true, on Kubernetes 1.30 or newer"},
		{CodeUnknownFlag, Warning, "the driver has a flag that this version does not know", "use the kubectl plugin of the driver's version, or correct linux.extraArgs of the chart"},
		{CodeBaselineOutdated, Warning, "an entry of the baseline no longer applies", "correct the finding, or accept it again with a later date"},
		{CodeSecretsOff, Warning, "a class lists Kubernetes Secrets, and the driver writes none", "set syncSecret of the chart, or read the files and remove spec.secretObjects"},
		{CodeSecretRefused, Error, "the API server refuses a Secret of a class", "list the Secret in syncSecret.secrets of the chart, or its namespace in syncSecret.namespaces"},
		{CodeSecretOfOther, Error, "a Secret of a class belongs to another owner", "delete the Secret, or give the class's entry another secretName: the driver writes over nothing that the class has not made"},
	}
}
