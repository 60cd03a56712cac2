package finding

// The codes of lint.
const (
	CodeUnreadable       = "MF001"
	CodeRefused          = "MF002"
	CodeClassWarning     = "MF003"
	CodePlugin           = "MF004"
	CodeOtherProvider    = "MF005"
	CodeWithoutData      = "MF006"
	CodeDuplicate        = "MF007"
	CodeNotReadOnly      = "MF008"
	CodeNoClass          = "MF009"
	CodeIgnoredAttribute = "MF010"
	CodeOtherNamespace   = "MF011"
	CodeClassNotGiven    = "MF012"
	CodeSubPath          = "MF013"
	CodeMountsCollide    = "MF014"
	CodeAudience         = "MF015"
	CodeSecretVariable   = "MF016"
	CodeFileMode         = "MF017"
	CodeDriverObject     = "MF018"
	CodeDriverName       = "MF019"
	CodeUserNamespace    = "MF020"
	CodeNoSuchFile       = "MF021"
)

// lintRules are those of lint.
func lintRules() []Rule {
	return []Rule{
		{CodeUnreadable, Error, "a file cannot be read", "correct the YAML or JSON"},
		{CodeRefused, Error, "the driver refuses the class", "correct the field in the message"},
		{CodeClassWarning, Warning, "the driver ignores something in the class", "correct or remove it"},
		{CodePlugin, Info, "the class's provider is a plugin", "check the parameters in the provider's own documentation"},
		{CodeOtherProvider, Warning, "a parameter belongs to another provider", "remove it, or correct spec.provider"},
		{CodeWithoutData, Warning, "a KV path may lack data/", "write the path with data/ if the engine is KV version 2"},
		{CodeDuplicate, Warning, "an object is in the files twice", "remove one of them"},
		{CodeNotReadOnly, Error, "a volume is not read-only", "set readOnly: true in the pod's csi volume"},
		{CodeNoClass, Error, "a volume names no class", "set volumeAttributes.secretProviderClass in the pod's csi volume"},
		{CodeIgnoredAttribute, Warning, "a volume attribute is ignored", "move it to spec.parameters of the class, or remove it"},
		{CodeOtherNamespace, Error, "the class is in another namespace", "put the class into the namespace of the pod"},
		{CodeClassNotGiven, Info, "the class is not in the files", "check that the cluster has it, or pass its file too"},
		{CodeSubPath, Warning, "a subPath mount does not follow rotations", "mount the whole volume at a directory of its own"},
		{CodeMountsCollide, Error, "two mounts collide", "give each volume a directory of its own"},
		{CodeAudience, Error, "the CSIDriver does not request the audience", "add the audience to spec.tokenRequests of the CSIDriver"},
		{CodeSecretVariable, Warning, "a variable comes from a Secret that the driver may not write", "read the file in the volume, or ask the operator to set the chart's syncSecret"},
		{CodeFileMode, Warning, "the container's user may not read a file", "give the file the container's uid, the pod an fsGroup, or the file a wider mode"},
		{CodeDriverObject, Error, "the CSIDriver object does not fit the driver", "use the CSIDriver object of Mayfly's chart"},
		{CodeDriverName, Warning, "a volume's driver may be misspelt", "write the name of the CSIDriver object"},
		{CodeUserNamespace, Error, "the pod's user namespace has no such id", "give the file an id up to 65535, or the pod the node's users (hostUsers: true)"},
		{CodeNoSuchFile, Warning, "a list names a file that the volume does not have", "write the name of an object of the class, or of a file that is made before"},
	}
}
