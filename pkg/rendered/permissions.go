package rendered

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// everyFile is the file name for all files without permissions of their own.
const everyFile = "*"

// Access returns the mode and owner of a file. own are those that an object or a plugin sets for
// it.
func (l Lists) Access(path string, own params.Access) params.Access {
	a, listed := l.permissions[path]
	if !listed {
		a = l.permissions[everyFile]
	}
	return params.Access{Mode: cmp.Or(a.Mode, own.Mode), Owner: a.Owner.Or(own.Owner)}
}

// permit returns a copy of the payload with the modes and owners that the class lists for its
// files. They take precedence over those of objects and plugins.
//
// A name that is nearly that of a file is an error: the file would keep a mode or owner that the
// class's author wanted to change. Any other name without a file is a warning, because the files of
// optional objects come and go.
func (l Lists) permit(p *provider.Payload) (*provider.Payload, error) {
	out := *p
	out.Files = slices.Clone(p.Files)
	names, found := make([]string, len(out.Files)), map[string]bool{everyFile: true}
	for i := range out.Files {
		f := &out.Files[i]
		names[i], found[f.Path] = f.Path, true
		a := l.Access(f.Path, params.Access{Mode: f.Mode, Owner: f.Owner})
		f.Mode, f.Owner = a.Mode, a.Owner
	}
	for _, f := range l.Permissions {
		if found[f.Path] {
			continue
		}
		missing := fmt.Sprintf("%s.%s: the volume has no file %q", f.Field, fieldName, params.Clip(f.Path))
		if like := class.Near(f.Path, names); like != "" {
			return nil, fault.New(fault.InvalidClass, "%s; did you mean %q?", missing, params.Clip(like))
		}
		out.Warnings = append(slices.Clip(out.Warnings), missing)
	}
	return &out, nil
}
