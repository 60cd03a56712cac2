package finding

// statusRules have the codes MF600 to MF699, of status, tree and refresh.
func statusRules() []Rule {
	return nil
}
