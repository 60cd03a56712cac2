package params

import (
	"io/fs"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
)

// The fields that say who may do what with a file, in every list of a class that has files. mode
// and user are the words of Kubernetes' volumes, filePermission that of the Vault CSI provider.
const (
	fieldPermission = "filePermission"
	fieldMode       = "mode"
	fieldUID        = "uid"
	fieldUser       = "user"
	fieldGID        = "gid"
)

// AccessFields are the fields that Object.Access reads.
func AccessFields() []string {
	return []string{fieldPermission, fieldMode, fieldUID, fieldUser, fieldGID}
}

// Access is who may do what with a file.
type Access struct {
	Mode  fs.FileMode // permission bits; 0 means the default, 0644
	Owner atomicdir.Owner
}

// Access reads the AccessFields of an object.
func (o *Object) Access() (a Access) {
	given := map[string]bool{}
	for _, f := range o.Fields {
		given[f.Name] = true
		switch f.Name {
		case fieldPermission, fieldMode:
			a.Mode = f.Mode()
		case fieldUID, fieldUser:
			a.Owner.UID = f.ID()
		case fieldGID:
			a.Owner.GID = f.ID()
		}
	}
	for name, same := range map[string]string{fieldMode: fieldPermission, fieldUser: fieldUID} {
		if given[name] && given[same] {
			o.Forbid(name, "says the same as "+same+", which is set too: keep one of them")
		}
	}
	return a
}

// ID reads the number of a user or group.
func (f Field) ID() *uint32 {
	id := uint32(f.Number(0, atomicdir.MaxID))
	return &id
}
