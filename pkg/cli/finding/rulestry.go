package finding

// The codes of try.
const (
	CodeTryUnsupported = "MF200"
	CodeTryRefused     = "MF201"
	CodeTryNoAccount   = "MF202"
	CodeTryAudience    = "MF203"
	CodeTryLogin       = "MF204"
	CodeTryNoRight     = "MF205"
	CodeTryNotFound    = "MF206"
	CodeTryNotRead     = "MF207"
	CodeTryNotRevoked  = "MF208"
)

// tryRules have the codes MF200 to MF299.
func tryRules() []Rule {
	return []Rule{
		{CodeTryUnsupported, Error, "try does not support the class's provider", "start a pod that mounts the class, and run kubectl mayfly explain for it"},
		{CodeTryRefused, Error, "the driver refuses the class", "correct the field in the message, or ask the operator to allow it"},
		{CodeTryNoAccount, Error, "there is no such service account", "create it, or name another with --serviceaccount"},
		{CodeTryAudience, Error, "pods get no token for the class's audience", "add the audience to spec.tokenRequests of the CSIDriver"},
		{CodeTryLogin, Error, "the store refuses the login", "correct the role"},
		{CodeTryNoRight, Error, "the store does not let the pod read an object", "correct the policy"},
		{CodeTryNotFound, Error, "an object is not in the store", "write the secret, or correct secretPath"},
		{CodeTryNotRead, Error, "an object cannot be read", "correct the object in the class, or the secret in the store"},
		{CodeTryNotRevoked, Warning, "the token of the try could not be revoked", "none: it expires by its TTL"},
	}
}
