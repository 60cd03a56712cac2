package explain

import (
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// advice maps a failure to what to do.
type advice struct {
	// reasons are the driver's, any of which matches; none matches all.
	reasons []fault.Reason
	// words are in lower case; one of them must be in the failure's text, if there are any.
	words []string
	// plugin restricts it to the classes of provider plugins.
	plugin bool
	// link is the broken one.
	link string
	code string
	// remedy may have {names}, which facts fill in; empty for the rule's own.
	// akeyless restricts it to classes of provider akeyless.
	remedy, akeyless string
	// kubelet says that the text is kubelet's own, from before it called the driver.
	kubelet bool
	// mendable says that the link's objects show when it is repaired.
	mendable bool
}

// adviceFor finds the first entry that matches; the last one matches all. kubelets says that the
// text may be kubelet's own.
func adviceFor(kubelets bool, reason fault.Reason, words string, plugin bool) *advice {
	words = strings.ToLower(words)
	rows := adviceTable()
	for i := range rows {
		a := &rows[i]
		if (kubelets || !a.kubelet) && (len(a.reasons) == 0 || slices.Contains(a.reasons, reason)) && (!a.plugin || plugin) &&
			(len(a.words) == 0 || slices.ContainsFunc(a.words, func(w string) bool { return strings.Contains(words, w) })) {
			return a
		}
	}
	panic("the last row fits all")
}

func adviceTable() []advice {
	return slices.Concat(kubeletAdvice(), requestAdvice(), pluginAdvice(), loginAdvice(), readAdvice(), reachAdvice(), nodeAdvice())
}

// kubeletAdvice is for kubelet's failures before it calls the driver.
func kubeletAdvice() []advice {
	return []advice{
		{words: []string{"not found in the list of registered csi drivers"}, link: linkRegistration, code: finding.CodeNotRegistered, kubelet: true, mendable: true,
			remedy: "check whether node {node} has a ready pod of the driver: kubectl get pods -n {drivernamespace} -l app.kubernetes.io/name=mayfly -o wide"},
		{words: []string{"volume_mount_group capability", "dial unix"}, link: linkRegistration, code: finding.CodeNoSocket, kubelet: true, mendable: true,
			remedy: "check the driver's pod on node {node}: kubectl get pods -n {drivernamespace} -l app.kubernetes.io/name=mayfly -o wide; if it is healthy, delete it, so that the new pod registers again"},
		{words: []string{"no csidriver object"}, link: linkCSIDriver, code: finding.CodeNoCSIDriver, kubelet: true, mendable: true},
		{words: []string{`volume mode "ephemeral" not supported`}, link: linkCSIDriver, code: finding.CodeDriverObject, kubelet: true, mendable: true},
		{words: []string{"is not authorized to request tokens for audience"}, link: linkAudience, code: finding.CodeTokenForbidden, kubelet: true, mendable: true},
		{words: []string{"failed to get service accoount token attributes"}, link: linkAccount, code: finding.CodeNoAccount, kubelet: true, mendable: true,
			remedy: "kubectl create serviceaccount {account} -n {namespace}, or correct serviceAccountName in the pod"},
		{words: []string{"fetching nodepublishsecretref"}, link: linkVolume, code: finding.CodeNoPublishSecret, kubelet: true},
		{words: []string{"unable to attach or mount volumes", "timed out waiting for the condition"}, link: linkStore, code: finding.CodeNoReason, kubelet: true},
	}
}

// requestAdvice is for the driver's failures before it asks a store.
func requestAdvice() []advice {
	return []advice{
		{words: []string{"readonly is false"}, link: linkVolume, code: finding.CodeNotReadOnly},
		{words: []string{`volume_context["secretproviderclass"] is missing`}, link: linkVolume, code: finding.CodeNoClass},
		{words: []string{"podinfoonmount"}, link: linkCSIDriver, code: finding.CodeDriverObject, mendable: true},
		{reasons: []fault.Reason{fault.InvalidArgument}, link: linkVolume, code: finding.CodeVolumeRefused},
		{words: []string{"failed to get secretproviderclass"}, link: linkClass, code: finding.CodeNoSuchClass, mendable: true},
		{reasons: []fault.Reason{fault.ClassNotFound}, link: linkClass, code: finding.CodeNoSuchClass, mendable: true},
		{reasons: []fault.Reason{fault.InvalidClass}, link: linkClass, code: finding.CodeRefused, remedy: "correct the field in the message: kubectl edit secretproviderclass {class} -n {namespace}"},
		{reasons: []fault.Reason{fault.NotAllowed}, link: linkClass, code: finding.CodeNotAllowed},
		{reasons: []fault.Reason{fault.UnknownProvider}, link: linkProvider, code: finding.CodeNoProvider},
		{words: []string{"provider not found"}, link: linkProvider, code: finding.CodeNoProvider},
		{words: []string{"no service account token for"}, link: linkAudience, code: finding.CodeAudience, mendable: true},
		{reasons: []fault.Reason{fault.NoToken}, link: linkAudience, code: finding.CodeNoToken},
	}
}

func pluginAdvice() []advice {
	return []advice{
		{plugin: true, words: []string{"received message larger than max"}, link: linkStore, code: finding.CodeTooLarge, remedy: "split the class, or ask the operator to raise --max-call-recv-msg-size (chart: providerPlugins.maxMessageSize)"},
		{plugin: true, words: []string{"serviceaccounts/token"}, link: linkStore, code: finding.CodePluginFails, remedy: "the plugin's own service account may not create tokens: grant it the rights in its documentation"},
		{plugin: true, reasons: []fault.Reason{
			fault.Denied, fault.Unverified, fault.NotFound, fault.Rejected, fault.Unavailable, fault.RateLimited, fault.Timeout, fault.BadAnswer, fault.Internal,
		}, link: linkStore, code: finding.CodePluginFails},
	}
}

const roleOf = "auth/{mount}/role/{role}"

// loginAdvice is for a store's answers to a login.
func loginAdvice() []advice {
	return []advice{
		{words: []string{"invalid role name", `" could not be found`}, link: linkStore, code: finding.CodeNoRole,
			remedy: "{vault} write{in} " + roleOf + " bound_service_account_names={account} bound_service_account_namespaces={namespace} audience={audience} token_policies=POLICY, or correct spec.parameters.roleName of class {class}"},
		{words: []string{"service account name not authorized"}, link: linkStore, code: finding.CodeNotBound,
			remedy: "add the account to those of the role ({vault} read{in} " + roleOf + "): {vault} write{in} " + roleOf + " bound_service_account_names=...,{account}"},
		{words: []string{"namespace not authorized"}, link: linkStore, code: finding.CodeNotBound,
			remedy: "add the namespace to those of the role ({vault} read{in} " + roleOf + "): {vault} write{in} " + roleOf + " bound_service_account_namespaces=...,{namespace}"},
		{words: []string{"could not load backend configuration", "was never written"}, link: linkStore, code: finding.CodeNoAuthMethod,
			remedy: "{vault} write{in} auth/{mount}/config kubernetes_host=https://APISERVER, and for a Vault outside the cluster also kubernetes_ca_cert and token_reviewer_jwt"},
		{words: []string{"no handler for route", "unsupported path"}, link: linkStore, code: finding.CodeNoAuthMethod,
			remedy: "{vault} auth list{in} shows the auth methods; name one in spec.parameters.vaultAuthMountPath, or: {vault} auth enable{in} -path={mount} kubernetes"},
		{words: []string{"error validating token", "audience claim", "invalid audience", "no audiences bound", "invalid for the target audiences"}, link: linkStore, code: finding.CodeUnverified, remedy: unverified, akeyless: unverifiedAkeyless},
		{reasons: []fault.Reason{fault.Unverified}, words: []string{"logging in"}, link: linkStore, code: finding.CodeUnverified, remedy: unverified, akeyless: unverifiedAkeyless},
		{reasons: []fault.Reason{fault.Denied}, words: []string{"logging in"}, link: linkStore, code: finding.CodeNotBound,
			remedy:   "check what the role requires: {vault} read{in} " + roleOf,
			akeyless: "let the auth method {accessid} accept service account {namespace}/{account}: akeyless auth-method get --access-id {accessid}"},
	}
}

const (
	unverified = "let the role accept tokens for audience {audience}: {vault} write{in} " + roleOf + " audience={audience} (of a jwt method bound_audiences={audience}); " +
		"check that the auth method exists, and that it can verify tokens of this cluster: {vault} auth list{in}, {vault} read{in} auth/{mount}/config. A Vault outside the cluster needs token_reviewer_jwt"
	unverifiedAkeyless = "let the auth method {accessid} and the gateway's auth config accept tokens of this cluster for audience {audience}: akeyless auth-method get --access-id {accessid}"
)

// readAdvice is for a store's answers to a read.
func readAdvice() []advice {
	return []advice{
		{words: []string{"version 2 is mounted there: secretpath must be", "invalid path for a versioned"}, link: linkStore, code: finding.CodeDataMissing,
			remedy: "write secretPath: {fixed} in class {class}, and grant it in a policy of role {role}: path {fixed} { capabilities = [\"read\"] }"},
		{reasons: []fault.Reason{fault.Denied, fault.Unverified}, link: linkStore, code: finding.CodePolicyDenies,
			remedy:   "grant it in a policy of role {role}: {rule}. {vault} read{in} " + roleOf + " names the policies; the path of a KV version 2 secret has data/ after the mount",
			akeyless: "allow it in a role that is associated with access ID {accessid}: akeyless set-role-rule --role-name ROLE --path {path} --capability read"},
		{reasons: []fault.Reason{fault.NotFound}, link: linkStore, code: finding.CodeObjectNotFound,
			remedy:   "check what the store has: {vault} read{in} {path}; then correct secretPath or secretKey in class {class}, or write the secret",
			akeyless: "check the item: akeyless describe-item --name {path}; then correct the object in class {class}, or create the item"},
		{words: []string{"received message larger than max"}, link: linkStore, code: finding.CodeTooLarge},
		{reasons: []fault.Reason{fault.TooLarge, fault.Exhausted}, link: linkStore, code: finding.CodeTooLarge},
		{reasons: []fault.Reason{fault.RateLimited}, link: linkStore, code: finding.CodeRateLimited,
			remedy:   "raise the quota, or let the store count by more than the node's address: {vault} list{in} sys/quotas/rate-limit",
			akeyless: "lengthen refreshInterval of class {class}, or raise the account's limit"},
	}
}

// reachAdvice is for stores that do not answer, or not with the right identity.
func reachAdvice() []advice {
	return []advice{
		{words: []string{"x509:", "tls: ", "speaks tls", "to an https server", "does not speak tls"}, link: linkStore, code: finding.CodeTLS,
			remedy: "the address is {address} ({origin}): check its scheme, configure the certificate's CA (vaultCACertPath of the class, or --vault-tls-ca-cert, chart: vault.tls.caConfigMap), and check the host in the certificate"},
		{words: []string{"is sealed", "not initiali", "disaster recovery", "performance standby"}, link: linkStore, code: finding.CodeStoreUnavailable,
			remedy:   "run {vault} status -address={address}; running pods keep their files, and kubelet tries again automatically",
			akeyless: "check the gateway at {address} ({origin}); running pods keep their files, and kubelet tries again automatically"},
		{words: []string{"no such host", "connection refused", "i/o timeout", "no route to host", "network is unreachable", "connecting to"}, link: linkStore, code: finding.CodeUnreachable, remedy: unreachable},
		{reasons: []fault.Reason{fault.Timeout}, link: linkStore, code: finding.CodeUnreachable, remedy: unreachable},
		{reasons: []fault.Reason{fault.Unavailable}, link: linkStore, code: finding.CodeStoreUnavailable,
			remedy: "check the store at {address} ({origin}); kubelet tries again automatically"},
		{reasons: []fault.Reason{fault.BadAnswer}, link: linkStore, code: finding.CodeNotTheStore,
			remedy: "check whether {address} ({origin}) is the store's own address, and which proxy, ingress or mesh is in front of it"},
		{reasons: []fault.Reason{fault.Rejected}, link: linkStore, code: finding.CodeRejected},
	}
}

const unreachable = "the driver's pod connects to {address} ({origin}), not the application's pod, so check egress rules of namespace {drivernamespace} and the node's DNS: kubectl debug -n {drivernamespace} -it {driverpod} --image=busybox -- wget -O- {address}"

const readLog = "read the driver's log on node {node}: kubectl logs -n {drivernamespace} {driverpod}"

// nodeAdvice is for the node's own failures, with a last entry that matches all.
func nodeAdvice() []advice {
	return []advice{
		{reasons: []fault.Reason{fault.Mount, fault.State, fault.Conflict}, link: linkFiles, code: finding.CodeMountFails,
			remedy: readLog},
		{reasons: []fault.Reason{fault.Canceled}, link: linkStore, code: finding.CodeNoReason},
		{link: linkStore, code: finding.CodeUnknownFailure, remedy: readLog},
	}
}
