package finding

// tryRules have the codes MF200 to MF299.
func tryRules() []Rule {
	return nil
}
