package finding

// policyRules have the codes MF300 to MF399.
func policyRules() []Rule {
	return nil
}
