package finding

// The codes of status, tree and refresh.
const (
	CodeRefreshFails         = "MF600"
	CodeNotMounted           = "MF601"
	CodeEmptied              = "MF602"
	CodeCredentialExpired    = "MF603"
	CodeFromMemory           = "MF604"
	CodeNodeStateUnknown     = "MF605"
	CodeStatusWithoutVolume  = "MF606"
	CodeCircuitOpen          = "MF607"
	CodePluginNotAnswering   = "MF608"
	CodeRecordUnreadable     = "MF609"
	CodeClassAbsent          = "MF610"
	CodeClassUnused          = "MF611"
	CodeClassOutdated        = "MF612"
	CodeRefreshFailed        = "MF620"
	CodeRefreshPending       = "MF621"
	CodeRefreshResultUnknown = "MF622"
	CodeNothingToDo          = "MF623"
)

// statusRules have the codes MF600 to MF699, of status, tree and refresh.
func statusRules() []Rule {
	return []Rule{
		{CodeRefreshFails, Warning, "a volume is not refreshed", "run kubectl mayfly explain for the pod; until then the volume keeps its last good content"},
		{CodeNotMounted, Error, "a volume is not mounted", "run kubectl mayfly explain for the pod"},
		{CodeEmptied, Error, "a denial has emptied a volume", "restore the pod's right in the store, or set onDenied: keep in the class"},
		{CodeCredentialExpired, Error, "a credential in a volume has expired", "run kubectl mayfly explain for the pod; the credential in the volume is no longer valid"},
		{CodeFromMemory, Info, "a pod started while the store did not answer", "none if the store answers again: the driver then refreshes the volume"},
		{CodeNodeStateUnknown, Warning, "a node's live state is not known", "run the command as a user who may forward a port to the driver's pods"},
		{CodeStatusWithoutVolume, Warning, "no node has the volume of a status", "check whether the pod and the driver run on the node; Kubernetes deletes the status together with its pod"},
		{CodeCircuitOpen, Warning, "a node has stopped asking a store for a while", "check why the store does not answer the node; the driver tries again automatically"},
		{CodePluginNotAnswering, Warning, "a provider plugin does not answer", "check the pod of the plugin on that node"},
		{CodeRecordUnreadable, Info, "a record of the driver could not be read", "none: kubelet's next call creates a new one; the file on the node says why"},
		{CodeClassAbsent, Error, "the class does not exist", "create it in the namespace of the pods that mount it, or correct the name"},
		{CodeClassUnused, Info, "no volume uses the class", "none if no pod should mount it now"},
		{CodeClassOutdated, Warning, "a volume has an earlier version of the class", "run kubectl mayfly refresh for the class, and read its result"},
		{CodeRefreshFailed, Error, "a refresh failed", "run kubectl mayfly explain for the pod"},
		{CodeRefreshPending, Error, "a refresh did not finish in time", "raise --timeout, or run kubectl mayfly status"},
		{CodeRefreshResultUnknown, Warning, "the result of the refresh is unknown", "run the command as a user who may forward a port to the driver's pods"},
		{CodeNothingToDo, Warning, "there is nothing to refresh", "list the volumes with kubectl mayfly status"},
	}
}
