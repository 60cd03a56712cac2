package finding

// The codes of who.
const (
	CodeEveryone   = "MF400"
	CodeClassGone  = "MF401"
	CodeTrailLines = "MF402"
	CodeTrailGaps  = "MF403"
	CodeNoTrail    = "MF404"
	CodeTrailChain = "MF405"
)

// whoRules have the codes MF400 to MF499.
func whoRules() []Rule {
	return []Rule{
		{CodeEveryone, Error, "everyone may reach the class", "bind the role to those who need it"},
		{CodeClassGone, Error, "the class does not exist here", "correct the name, or the namespace with -n"},
		{CodeTrailLines, Warning, "lines of the audit trail cannot be used", "check the lines, and who may write to that file"},
		{CodeTrailGaps, Warning, "the audit trail has gaps", "read the store's own audit log for that time"},
		{CodeNoTrail, Warning, "there is no audit trail to read", "set audit.path of the chart to \"-\", or pass the nodes' files with --audit"},
		{CodeTrailChain, Warning, "lines of the audit trail were changed, moved or removed", "run mayfly-node audit verify on the files, and check who may write to them"},
	}
}
