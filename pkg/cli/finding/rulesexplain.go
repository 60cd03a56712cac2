package finding

// The codes of explain, in the order of the chain.
const (
	CodeNoVolume         = "MF100"
	CodeNoPods           = "MF101"
	CodeNotScheduled     = "MF102"
	CodeNodeUnsuitable   = "MF103"
	CodeDriverAbsent     = "MF104"
	CodeDriverNotReady   = "MF105"
	CodeNotRegistered    = "MF106"
	CodeNoSocket         = "MF107"
	CodeNoCSIDriver      = "MF108"
	CodeNoAccount        = "MF109"
	CodeTokenForbidden   = "MF110"
	CodeNoPublishSecret  = "MF111"
	CodeNoSuchClass      = "MF112"
	CodeNoProvider       = "MF113"
	CodeNoToken          = "MF114"
	CodePastFailure      = "MF115"
	CodePodEnded         = "MF116"
	CodeNoReason         = "MF117"
	CodeNoStatus         = "MF118"
	CodeVolumeRefused    = "MF119"
	CodeNoRole           = "MF120"
	CodeNotBound         = "MF121"
	CodeUnverified       = "MF122"
	CodeNoAuthMethod     = "MF123"
	CodePolicyDenies     = "MF124"
	CodeObjectNotFound   = "MF125"
	CodeDataMissing      = "MF126"
	CodeUnreachable      = "MF127"
	CodeTLS              = "MF128"
	CodeStoreUnavailable = "MF129"
	CodeRateLimited      = "MF130"
	CodeNotTheStore      = "MF131"
	CodeNotAllowed       = "MF132"
	CodeTooLarge         = "MF133"
	CodeMountFails       = "MF134"
	CodeRejected         = "MF135"
	CodePluginFails      = "MF136"
	CodeUnknownFailure   = "MF137"
	CodeNoSecret         = "MF140"
	CodeSELinux          = "MF141"
	CodeContainerFails   = "MF142"
	CodeLastGood         = "MF143"
	CodeVolumeEmptied    = "MF144"
	CodeStaticPod        = "MF145"
	CodeOtherVolume      = "MF146"
	CodeIgnoredField     = "MF147"
	CodeVolumeUnused     = "MF148"
)

// explainRules have the codes MF100 to MF199.
func explainRules() []Rule {
	return []Rule{
		{CodeNoVolume, Warning, "the pod has no volume of the driver", "give the pod a csi volume of the driver with readOnly: true and volumeAttributes.secretProviderClass"},
		{CodeNoPods, Error, "there are no pods", "do what the controller's message says"},
		{CodeNotScheduled, Error, "the pod is not scheduled", "do what the scheduler's message says"},
		{CodeNodeUnsuitable, Error, "the node cannot serve the pod", "let the pod run on another node"},
		{CodeDriverAbsent, Error, "the driver does not run on the node", "let the driver's DaemonSet run a pod on the node: set the chart's linux.tolerations, linux.nodeSelector and linux.affinity"},
		{CodeDriverNotReady, Error, "the driver's pod is not ready", "read its log and its events"},
		{CodeNotRegistered, Error, "the driver is not registered with kubelet", "set the chart's linux.kubeletRootDir to kubelet's own root directory on the node"},
		{CodeNoSocket, Error, "kubelet does not reach the driver", "check the driver's pod on the node"},
		{CodeNoCSIDriver, Error, "there is no CSIDriver object", "install Mayfly's chart, or correct the driver's name in the pod's csi volume"},
		{CodeNoAccount, Error, "there is no such service account", "create the service account, or correct the pod's serviceAccountName"},
		{CodeTokenForbidden, Error, "kubelet may not request the token", "list the audience under spec.tokenRequests of the CSIDriver (the chart's tokenRequests)"},
		{CodeNoPublishSecret, Error, "the Secret of nodePublishSecretRef cannot be read", "create it, or remove nodePublishSecretRef: the built-in providers need none"},
		{CodeNoSuchClass, Error, "there is no such class", "create the class in the namespace of the pod, or correct the name in the pod's csi volume"},
		{CodeNoProvider, Error, "the node has no such provider", "correct spec.provider of the class, or set the chart's providerPlugins.enabled and run the provider's plugin on that node"},
		{CodeNoToken, Error, "kubelet passed no valid token", "see spec.tokenRequests and spec.requiresRepublish of the CSIDriver object"},
		{CodePastFailure, Warning, "the last failure is a past one", "wait: kubelet tries again within 2m2s, and at once for a new pod"},
		{CodePodEnded, Info, "the pod has ended", "its volumes no longer exist; read its log"},
		{CodeNoReason, Warning, "nothing says why the volume is not mounted", "wait for kubelet's next try; then read the driver's log on the node"},
		{CodeNoStatus, Info, "the volume has no status", "check in the log of the driver on the node whether it is Mayfly, and whether it may write SecretProviderClassPodStatus objects"},
		{CodeVolumeRefused, Error, "the driver refuses the volume", "correct the field in the message in the pod's csi volume"},
		{CodeNoRole, Error, "the store has no such role", "create the role, or correct spec.parameters.roleName"},
		{CodeNotBound, Error, "the role is not bound to the pod", "bind the role to the pod's service account and namespace"},
		{CodeUnverified, Error, "the store does not accept the pod's token", "configure the role and the auth method for the cluster's tokens and the class's audience"},
		{CodeNoAuthMethod, Error, "the auth method is missing or not set up", "set up the auth method, or correct vaultAuthMountPath"},
		{CodePolicyDenies, Error, "no policy lets the pod read the object", "grant it in a policy of the role"},
		{CodeObjectNotFound, Error, "the store has no such object", "correct the path or the key in the class, or write the secret"},
		{CodeDataMissing, Error, "the path lacks data/", "write the path with data/ after the mount"},
		{CodeUnreachable, Error, "the driver does not reach the store", "check address, DNS and firewalls from the driver's pod"},
		{CodeTLS, Error, "the store's TLS is not accepted", "check the scheme, and the certificate's CA and name"},
		{CodeStoreUnavailable, Error, "the store cannot answer now", "repair the store"},
		{CodeRateLimited, Error, "the store asks to slow down", "raise the store's quota"},
		{CodeNotTheStore, Error, "something other than the store answers", "check the address, and the proxies in front of the store"},
		{CodeNotAllowed, Error, "the operator does not allow it", "change the class, or ask the operator to change the setting in the message"},
		{CodeTooLarge, Error, "the secrets do not fit", "split the class, or raise the limit in the message"},
		{CodeMountFails, Error, "the node refuses the mount", "read the driver's log on the node"},
		{CodeRejected, Error, "the store rejects the request", "correct the object in the class as the store's message says"},
		{CodePluginFails, Error, "the provider plugin fails", "do what its message says, and read the plugin's log on the node"},
		{CodeUnknownFailure, Error, "the mount fails for an unknown reason", "read the driver's log on the node"},
		{CodeNoSecret, Error, "a container waits for a Secret", "create it, or read the file in the volume instead"},
		{CodeSELinux, Error, "SELinux denies the container the volume", "give the pods and containers that share the volume the same SELinux level, or let the runtime set the label"},
		{CodeContainerFails, Error, "a container fails for another reason than its secrets", "its secrets are mounted: read the container's log and events"},
		{CodeLastGood, Warning, "the volume has content from the node's memory", "check the store: the driver refreshes the volume as soon as the store answers"},
		{CodeVolumeEmptied, Error, "a denial has emptied the volume", "restore the pod's rights in the store, or set onDenied: keep in the class"},
		{CodeStaticPod, Error, "static pods are not served", "create the pod in the API server: kubelet requests no tokens for a static pod"},
		{CodeOtherVolume, Error, "another volume of the pod cannot be mounted", "correct that volume: kubelet starts no container before all volumes are mounted"},
		{CodeIgnoredField, Warning, "the driver ignores something", "correct or remove it"},
		{CodeVolumeUnused, Warning, "no container mounts the volume", "give a container a volumeMounts entry of the volume"},
	}
}
