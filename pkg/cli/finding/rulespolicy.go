package finding

// The codes of policy.
const (
	CodePolicyNoAccount    = "MF300"
	CodePolicyInexact      = "MF301"
	CodePolicyMoreAccounts = "MF302"
	CodePolicyAudience     = "MF303"
	CodePolicyUnsupported  = "MF304"
	CodePolicyRefused      = "MF305"
	CodePolicyNoRole       = "MF310"
	CodePolicyNotBound     = "MF311"
	CodePolicyMissing      = "MF312"
	CodePolicyTooWide      = "MF313"
	CodeRoleTooWide        = "MF314"
)

// policyRules have the codes MF300 to MF399.
func policyRules() []Rule {
	return []Rule{
		{CodePolicyNoAccount, Warning, "the service accounts of a role are not known", "name them with --serviceaccount, or pass the files of the pods too"},
		{CodePolicyInexact, Warning, "a policy cannot name a path exactly", "store the secret at another path"},
		{CodePolicyMoreAccounts, Warning, "a role accepts more service accounts than mount the classes", "give the classes of each namespace a role of their own"},
		{CodePolicyAudience, Error, "a role cannot have the audience", "give the classes of a role the same audience"},
		{CodePolicyUnsupported, Info, "there is no policy for the class's provider", "see the provider's own documentation"},
		{CodePolicyRefused, Error, "the driver refuses the class, so it needs nothing", "run kubectl mayfly lint, and correct the field in its message"},
		{CodePolicyNoRole, Error, "the store has no such role", "create the role: kubectl mayfly policy -o commands prints how"},
		{CodePolicyNotBound, Error, "the role does not accept a pod", "write the role again: kubectl mayfly policy -o commands prints how"},
		{CodePolicyMissing, Error, "a right is missing", "write the policy again: kubectl mayfly policy -o commands prints how"},
		{CodePolicyTooWide, Warning, "a policy grants more than the classes need", "remove it from the policy, unless something else logs in with the role"},
		{CodeRoleTooWide, Warning, "a role accepts more than the classes need", "name the service accounts, their namespaces and the audience in the role"},
	}
}
