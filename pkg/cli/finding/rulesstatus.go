package finding

// The codes of status, tree and refresh.
const (
	CodeRefreshFails    = "MF600"
	CodeNotMounted      = "MF601"
	CodeEmptied         = "MF602"
	CodeCredentialEnded = "MF603"
	CodeFromMemory      = "MF604"
	CodeNodeSilent      = "MF605"
	CodeStatusLeft      = "MF606"
	CodeStoreHeldUp     = "MF607"
	CodePluginSilent    = "MF608"
	CodeRecordLost      = "MF609"
	CodeClassAbsent     = "MF610"
	CodeClassUnused     = "MF611"
	CodeClassOutdated   = "MF612"
	CodeRefreshFailed   = "MF620"
	CodeRefreshPending  = "MF621"
	CodeRefreshUnseen   = "MF622"
	CodeNothingToDo     = "MF623"
)

// statusRules have the codes MF600 to MF699, of status, tree and refresh.
func statusRules() []Rule {
	return []Rule{
		{CodeRefreshFails, Warning, "a volume is not refreshed", "kubectl mayfly explain the pod; the last good content stays until then"},
		{CodeNotMounted, Error, "a volume is not mounted", "kubectl mayfly explain the pod"},
		{CodeEmptied, Error, "a denial has emptied a volume", "give the pod its right in the store again, or set onDenied: keep in the class"},
		{CodeCredentialEnded, Error, "a credential in a volume has ended", "kubectl mayfly explain the pod; what the volume holds is no longer valid"},
		{CodeFromMemory, Info, "a pod started while the store was away", "nothing, if the store comes back: the driver asks it again by itself"},
		{CodeNodeSilent, Warning, "a node's live state is not known", "run the command as a user who may forward a port to the driver's pods"},
		{CodeStatusLeft, Warning, "no node has the volume of a status", "see whether the pod and the driver run on the node; a status that is left goes with its pod"},
		{CodeStoreHeldUp, Warning, "a node leaves a store alone for a while", "see why the store does not answer the node; the driver tries again by itself"},
		{CodePluginSilent, Warning, "a provider plugin does not answer", "look at the pod of the plugin on that node"},
		{CodeRecordLost, Info, "a record of the driver could not be read", "nothing: kubelet's next call makes a new one; the file on the node says why"},
		{CodeClassAbsent, Error, "the class does not exist", "create it in the namespace of the pods that mount it, or correct the name"},
		{CodeClassUnused, Info, "no volume is of the class", "nothing, if no pod is meant to mount it now"},
		{CodeClassOutdated, Warning, "a volume is of an earlier version of the class", "kubectl mayfly refresh the class, and see what it says"},
		{CodeRefreshFailed, Error, "a refresh failed", "kubectl mayfly explain the pod"},
		{CodeRefreshPending, Error, "a refresh has not ended in time", "wait longer with --timeout, or look at kubectl mayfly status"},
		{CodeRefreshUnseen, Warning, "it is not known whether the refresh went well", "run the command as a user who may forward a port to the driver's pods"},
		{CodeNothingToDo, Warning, "there is nothing to refresh", "see which volumes there are: kubectl mayfly status"},
	}
}
