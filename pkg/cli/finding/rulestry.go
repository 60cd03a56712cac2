package finding

// The codes of try.
const (
	CodeTryOther      = "MF200"
	CodeTryRefused    = "MF201"
	CodeTryNoAccount  = "MF202"
	CodeTryAudience   = "MF203"
	CodeTryLogin      = "MF204"
	CodeTryNoRight    = "MF205"
	CodeTryNotThere   = "MF206"
	CodeTryNotRead    = "MF207"
	CodeTryNotRevoked = "MF208"
)

// tryRules have the codes MF200 to MF299.
func tryRules() []Rule {
	return []Rule{
		{CodeTryOther, Error, "the class's provider cannot be tried from here", "start a pod that mounts the class, and see kubectl mayfly explain"},
		{CodeTryRefused, Error, "the driver refuses the class", "correct what is named, or have the operator allow it"},
		{CodeTryNoAccount, Error, "there is no such service account", "create it, or name another with --serviceaccount"},
		{CodeTryAudience, Error, "pods get no token for the class's audience", "add the audience to spec.tokenRequests of the CSIDriver"},
		{CodeTryLogin, Error, "the store refuses the login", "write the role as the remedy says"},
		{CodeTryNoRight, Error, "the store does not let the pod have an object", "write the policy as the remedy says"},
		{CodeTryNotThere, Error, "an object is not in the store", "store it, or correct its secretPath"},
		{CodeTryNotRead, Error, "an object cannot be had", "correct the object in the class, or what the store has"},
		{CodeTryNotRevoked, Warning, "the token of the try could not be revoked", "it ends by itself"},
	}
}
