package finding

// whoRules have the codes MF400 to MF499.
func whoRules() []Rule {
	return nil
}
