package finding

// The codes of explain, in the order of the chain.
const (
	CodeNoVolume        = "MF100"
	CodeNoPods          = "MF101"
	CodeNotScheduled    = "MF102"
	CodeNodeUnfit       = "MF103"
	CodeDriverAbsent    = "MF104"
	CodeDriverNotReady  = "MF105"
	CodeNotRegistered   = "MF106"
	CodeNoSocket        = "MF107"
	CodeNoCSIDriver     = "MF108"
	CodeNoAccount       = "MF109"
	CodeTokenForbidden  = "MF110"
	CodeNoPublishSecret = "MF111"
	CodeNoSuchClass     = "MF112"
	CodeNoProvider      = "MF113"
	CodeNoToken         = "MF114"
	CodeMended          = "MF115"
	CodeEnded           = "MF116"
	CodeNoWord          = "MF117"
	CodeNoStatus        = "MF118"
	CodeVolumeRefused   = "MF119"
	CodeNoRole          = "MF120"
	CodeNotBound        = "MF121"
	CodeUnverified      = "MF122"
	CodeNoAuthMethod    = "MF123"
	CodePolicyDenies    = "MF124"
	CodeNothingThere    = "MF125"
	CodeDataMissing     = "MF126"
	CodeUnreachable     = "MF127"
	CodeTLS             = "MF128"
	CodeStoreAway       = "MF129"
	CodeRateLimited     = "MF130"
	CodeNotTheStore     = "MF131"
	CodeNotAllowed      = "MF132"
	CodeTooLarge        = "MF133"
	CodeNodeFails       = "MF134"
	CodeRejected        = "MF135"
	CodePluginFails     = "MF136"
	CodeOther           = "MF137"
	CodeNoSecret        = "MF140"
	CodeSELinux         = "MF141"
	CodeContainer       = "MF142"
	CodeLastGood        = "MF143"
	CodeFilesGone       = "MF144"
	CodeStatic          = "MF145"
	CodeOtherVolume     = "MF146"
	CodeIgnored         = "MF147"
	CodeUnused          = "MF148"
)

// explainRules have the codes MF100 to MF199.
func explainRules() []Rule {
	return []Rule{
		{CodeNoVolume, Warning, "the pod has no volume of the driver", "give the pod a csi volume of the driver with readOnly: true and volumeAttributes.secretProviderClass"},
		{CodeNoPods, Error, "there are no pods", "do what the controller's words ask for"},
		{CodeNotScheduled, Error, "the pod is not scheduled", "do what the scheduler's words ask for"},
		{CodeNodeUnfit, Error, "the node cannot serve the pod", "have the pod run on another node"},
		{CodeDriverAbsent, Error, "the driver does not run on the node", "have the driver's DaemonSet run a pod on the node: tolerations, nodeSelector and affinity are the chart's linux.tolerations, linux.nodeSelector and linux.affinity"},
		{CodeDriverNotReady, Error, "the driver's pod is not ready", "read its log and its events"},
		{CodeNotRegistered, Error, "the driver is not registered with kubelet", "have the chart's linux.kubeletRootDir be kubelet's own root directory on the node"},
		{CodeNoSocket, Error, "kubelet does not reach the driver", "look at the driver's pod on the node"},
		{CodeNoCSIDriver, Error, "there is no CSIDriver object", "install Mayfly's chart, or correct the driver's name in the pod's csi volume"},
		{CodeNoAccount, Error, "there is no such service account", "create the service account, or correct the pod's serviceAccountName"},
		{CodeTokenForbidden, Error, "kubelet may not request the token", "list the audience under spec.tokenRequests of the CSIDriver (the chart's tokenRequests)"},
		{CodeNoPublishSecret, Error, "the Secret of nodePublishSecretRef cannot be read", "create it, or take nodePublishSecretRef out: the built-in providers need none"},
		{CodeNoSuchClass, Error, "there is no such class", "create the class in the namespace of the pod, or correct the name in the pod's csi volume"},
		{CodeNoProvider, Error, "the node has no such provider", "correct spec.provider of the class, or have the provider's plugin run on that node and the chart's providerPlugins.enabled set"},
		{CodeNoToken, Error, "kubelet passed no valid token", "see spec.tokenRequests and spec.requiresRepublish of the CSIDriver object"},
		{CodeMended, Warning, "the last failure is a past one", "wait: kubelet tries again within 2m2s; a new pod is tried at once"},
		{CodeEnded, Info, "the pod has ended", "its volumes are gone with it; look at its log"},
		{CodeNoWord, Warning, "nothing says why the volume is not mounted", "wait for kubelet's next try; then look at the driver's log on the node"},
		{CodeNoStatus, Info, "no status tells of the volume", "see whether the driver on the node is Mayfly, and whether it may write SecretProviderClassPodStatus objects: its log says"},
		{CodeVolumeRefused, Error, "the driver refuses the volume", "correct what the driver names in the pod's csi volume"},
		{CodeNoRole, Error, "the store has no such role", "create the role, or correct spec.parameters.roleName"},
		{CodeNotBound, Error, "the role is not bound to the pod", "bind the role to the pod's service account and namespace"},
		{CodeUnverified, Error, "the store does not accept the pod's token", "have the role and the auth method accept the cluster's tokens and the class's audience"},
		{CodeNoAuthMethod, Error, "the auth method is missing or not set up", "set up the auth method, or correct vaultAuthMountPath"},
		{CodePolicyDenies, Error, "no policy lets the pod read the object", "grant it in a policy of the role"},
		{CodeNothingThere, Error, "the store has no such object", "correct the path or the key in the class, or write the secret"},
		{CodeDataMissing, Error, "the path lacks data/", "write the path with data/ after the mount"},
		{CodeUnreachable, Error, "the driver does not reach the store", "check address, DNS and firewalls from the driver's pod"},
		{CodeTLS, Error, "the store's TLS is not accepted", "check the scheme, the certificate's authority and its name"},
		{CodeStoreAway, Error, "the store cannot answer now", "look at the store"},
		{CodeRateLimited, Error, "the store asks to slow down", "raise the store's quota"},
		{CodeNotTheStore, Error, "something else answers in the store's place", "check the address and what lies before the store"},
		{CodeNotAllowed, Error, "the operator does not allow it", "ask for less in the class, or have the operator set what the message names"},
		{CodeTooLarge, Error, "the secrets do not fit", "make several classes of it, or raise what the message names"},
		{CodeNodeFails, Error, "the node refuses the mount", "read the driver's log on the node"},
		{CodeRejected, Error, "the store takes the request for a wrong one", "correct the object in the class as the store's words ask"},
		{CodePluginFails, Error, "the provider plugin fails", "do what its words ask for, and read the plugin's log on the node"},
		{CodeOther, Error, "the mount fails for a reason that is not known here", "read the driver's log on the node"},
		{CodeNoSecret, Error, "a container waits for a Secret", "have it made, or read the file in the volume instead"},
		{CodeSELinux, Error, "SELinux keeps the container from the volume", "give the pods and containers that share the volume one SELinux level, or leave the label to the runtime"},
		{CodeContainer, Error, "a container fails by itself", "its secrets are there: look at the container's log and events"},
		{CodeLastGood, Warning, "the volume holds what the node remembered", "look at the store: the volume is refreshed as soon as it answers"},
		{CodeFilesGone, Error, "a denial has emptied the volume", "give the pod its rights in the store back, or set onDenied: keep in the class"},
		{CodeStatic, Error, "static pods are not served", "make it a pod of the API server: kubelet requests no tokens for a static pod"},
		{CodeOtherVolume, Error, "another volume of the pod cannot be mounted", "mend that volume: kubelet starts no container before all of them are there"},
		{CodeIgnored, Warning, "the driver ignores something", "correct it or take it out"},
		{CodeUnused, Warning, "no container mounts the volume", "give a container a volumeMounts entry of the volume"},
	}
}
