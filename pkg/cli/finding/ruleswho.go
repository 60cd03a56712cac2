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
		{CodeClassGone, Error, "the class is not there", "correct the name, or the namespace with -n"},
		{CodeTrailLines, Warning, "lines of the audit trail cannot be used", "look at the lines, and at who may write to that place"},
		{CodeTrailGaps, Warning, "the audit trail has gaps", "look into the store's own audit log for that time"},
		{CodeNoTrail, Warning, "there is no audit trail to read", "set audit.path of the chart to \"-\", or give the nodes' files with --audit"},
		{CodeTrailChain, Warning, "lines of the audit trail were changed, moved or taken out", "run mayfly-node audit verify on the files, and look at who may write to that place"},
	}
}
