package finding

// doctorRules have the codes MF500 to MF599.
func doctorRules() []Rule {
	return nil
}
