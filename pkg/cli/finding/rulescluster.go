package finding

// The codes MF090 to MF099, for every command that reads a cluster.
const CodeNotReadable = "MF090"

func clusterRules() []Rule {
	return []Rule{
		{CodeNotReadable, Warning, "the command could not read an object", "get the right in the message, or run the command as a user who has it"},
	}
}
