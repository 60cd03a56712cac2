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

// everyFile is the file name that stands for each file without permissions of its own.
const everyFile = "*"

// Access is the mode and owner of a file for which an object or a plugin says own.
func (l Lists) Access(path string, own params.Access) params.Access {
	a, listed := l.permissions[path]
	if !listed {
		a = l.permissions[everyFile]
	}
	return params.Access{Mode: cmp.Or(a.Mode, own.Mode), Owner: a.Owner.Or(own.Owner)}
}

// permit gives the files of a copy of the payload the modes and owners that the class lists for
// them. These go before what an object or a plugin says.
//
// A name that is almost that of a file is an error: the file would keep a mode or owner that the
// class's author meant to change. Any other name without a file is a warning, because files of
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
