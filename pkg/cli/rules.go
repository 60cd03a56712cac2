package cli

import "strings"

// The codes. A code keeps its meaning for good; docs/findings.md explains each.
const (
	codeUnreadable   = "MF001"
	codeRefused      = "MF002"
	codeDoubtful     = "MF003"
	codePlugin       = "MF004"
	codeForeign      = "MF005"
	codeWithoutData  = "MF006"
	codeTwice        = "MF007"
	codeNotReadOnly  = "MF008"
	codeNoClass      = "MF009"
	codeAttribute    = "MF010"
	codeElsewhere    = "MF011"
	codeNotInSet     = "MF012"
	codeSubPath      = "MF013"
	codeCollide      = "MF014"
	codeAudience     = "MF015"
	codeEnv          = "MF016"
	codeMode         = "MF017"
	codeDriverObject = "MF018"
)

// Rule is what every finding of a code has in common.
type Rule struct {
	Code  string
	Level Level
	// Title is a few words, Remedy what to do unless the finding knows better.
	Title, Remedy string
}

const docsPage = "https://github.com/mayfly-csi/mayfly/blob/main/docs/findings.md"

func (r Rule) docs() string { return docsPage + "#" + strings.ToLower(r.Code) }

// Rules are all of them, in the order of their codes.
func Rules() []Rule {
	return []Rule{
		{codeUnreadable, Error, "a file cannot be read", "correct the YAML or JSON"},
		{codeRefused, Error, "the driver refuses the class", "correct the field that is named"},
		{codeDoubtful, Warning, "the driver ignores something in the class", "correct it or take it out"},
		{codePlugin, Info, "the class's provider is a plugin", "check the parameters in the provider's own documentation"},
		{codeForeign, Warning, "a parameter belongs to another provider", "take it out, or correct spec.provider"},
		{codeWithoutData, Warning, "a KV path may lack data/", "write the path with data/ if the engine is KV version 2"},
		{codeTwice, Warning, "an object is in the files twice", "keep one of them"},
		{codeNotReadOnly, Error, "a volume is not read-only", "set readOnly: true in the pod's csi volume"},
		{codeNoClass, Error, "a volume names no class", "set volumeAttributes.secretProviderClass in the pod's csi volume"},
		{codeAttribute, Warning, "a volume attribute is ignored", "move it to spec.parameters of the class, or take it out"},
		{codeElsewhere, Error, "the class is in another namespace", "put the class into the namespace of the pod"},
		{codeNotInSet, Info, "the class is not in the files", "check that the cluster has it, or give its file too"},
		{codeSubPath, Warning, "a subPath mount does not follow rotations", "mount the whole volume at a directory of its own"},
		{codeCollide, Error, "two mounts collide", "give each volume a directory of its own"},
		{codeAudience, Error, "the CSIDriver does not request the audience", "add the audience to spec.tokenRequests of the CSIDriver"},
		{codeEnv, Warning, "a variable comes from a Secret that the driver does not make", "read the file in the volume, or have something else make the Secret"},
		{codeMode, Warning, "the container's user may not read a file", "give the pod an fsGroup, or the file a wider filePermission"},
		{codeDriverObject, Error, "the CSIDriver object does not fit the driver", "take the CSIDriver object of Mayfly's chart"},
	}
}

func ruleOf(code string) Rule {
	for _, r := range Rules() {
		if r.Code == code {
			return r
		}
	}
	panic("no rule " + code)
}
