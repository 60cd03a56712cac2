package cluster

import (
	"context"
	"slices"
	"strings"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// Files are the files of a class, if its parameters list them in the form of the built-in providers.
type Files struct {
	// Names are those that the class names, and those of whole secrets that pods have.
	Names []string
	// Whole are the objects that make a file of each key of a secret.
	Whole []Whole
	// LeftOut says that the status of a pod has too many objects to name them.
	LeftOut bool
}

// Whole is an object that makes a file of each key of a secret.
type Whole struct {
	// Directory of the files; empty for the volume itself.
	Directory string `json:"directory,omitempty"`
	// From is the path of the secret, as the class has it.
	From string `json:"from,omitempty"`
	// Files are those that pods have, by their statuses.
	Files []string `json:"files,omitempty"`
}

// Files returns the files of a class. Only the store knows the keys of whole secrets: their files
// are those that the pods of the class have, by their statuses. With an error these are unknown.
func (c *Client) Files(ctx context.Context, spc *v1.SecretProviderClass) (Files, error) {
	f := FilesOf(spc.Spec.Parameters)
	if len(f.Whole) == 0 {
		return f, nil
	}
	statuses, err := c.PodStatuses(ctx, spc.Namespace, names.DriverLabel+"="+c.DriverName)
	if err != nil {
		return f, err
	}
	for i := range statuses {
		s := &statuses[i].Status
		for k := 0; s.SecretProviderClassName == spc.Name && k < len(s.Objects); k++ {
			f.add(s.Objects[k].ID)
		}
	}
	for i := range f.Whole {
		slices.Sort(f.Whole[i].Files)
		f.Names = append(f.Names, f.Whole[i].Files...)
	}
	return f, nil
}

// FilesOf returns the files that the parameters of a class name.
func FilesOf(parameters map[string]string) (f Files) {
	const keyObjects, fieldPath = "objects", "secretPath"
	set := params.New(parameters, params.Known{Keys: []string{keyObjects}, Long: []string{keyObjects}})
	for _, o := range set.Objects(keyObjects) {
		for _, t := range o.Takes(o.FileName()) {
			switch {
			case t.Every:
				w := Whole{Directory: t.File}
				for _, field := range o.Fields {
					if field.Name == fieldPath {
						w.From = field.Text()
					}
				}
				f.Whole = append(f.Whole, w)
			case t.File != "":
				f.Names = append(f.Names, t.File)
			}
		}
	}
	return f
}

// add takes an object of a pod's status.
func (f *Files) add(id string) {
	w := f.WholeOf(id)
	switch {
	case id == names.DigestID:
		f.LeftOut = true
	case w != nil && !slices.Contains(f.Names, id) && !slices.Contains(w.Files, id):
		w.Files = append(w.Files, id)
	}
}

// WholeOf returns the whole secret that a file can belong to: that of the nearest directory; nil for
// none.
func (f *Files) WholeOf(name string) (of *Whole) {
	for i := range f.Whole {
		w := &f.Whole[i]
		if w.Directory != "" && !strings.HasPrefix(name, w.Directory+"/") {
			continue
		}
		if of == nil || len(w.Directory) > len(of.Directory) {
			of = w
		}
	}
	return of
}
