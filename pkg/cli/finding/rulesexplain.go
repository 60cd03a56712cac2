package finding

// explainRules have the codes MF100 to MF199.
func explainRules() []Rule {
	return nil
}
