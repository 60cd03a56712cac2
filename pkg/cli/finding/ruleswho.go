package finding

// The codes of who.
const (
	CodeEveryoneReads      = "MF400"
	CodeClassNotHere       = "MF401"
	CodeAuditLinesUnusable = "MF402"
	CodeAuditGaps          = "MF403"
	CodeNoAuditTrail       = "MF404"
	CodeAuditChainBroken   = "MF405"
)

// whoRules have the codes MF400 to MF499.
func whoRules() []Rule {
	return []Rule{
		{CodeEveryoneReads, Error, "everyone may reach the class", "bind the role to those who need it"},
		{CodeClassNotHere, Error, "the class does not exist here", "correct the name, or the namespace with -n"},
		{CodeAuditLinesUnusable, Warning, "lines of the audit trail cannot be used", "check the lines, and who may write to that file"},
		{CodeAuditGaps, Warning, "the audit trail has gaps", "read the store's own audit log for that time"},
		{CodeNoAuditTrail, Warning, "there is no audit trail to read", "set audit.path of the chart to \"-\", or pass the nodes' files with --audit"},
		{CodeAuditChainBroken, Warning, "lines of the audit trail were changed, moved or removed", "run mayfly-node audit verify on the files, and check who may write to them"},
	}
}
