package lint

import (
	"fmt"
	"strings"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
)

// names are the files of a volume, as far as its class shows them.
type names struct {
	files []string
	// dirs are those of objects that make a file of each key of a secret; "" is the volume itself.
	dirs []string
}

// namesOf is false where the class does not tell.
func namesOf(c *class.Class) (n names, ok bool) {
	lists, _, err := rendered.Parse(c)
	if err != nil {
		return n, false
	}
	set := params.New(c.Parameters, params.Known{Keys: []string{keyObjects}, Long: []string{keyObjects}})
	objects := set.Objects(keyObjects)
	for i := range objects {
		for _, take := range objects[i].Takes(objects[i].FileName()) {
			if take.Every {
				n.dirs = append(n.dirs, take.File)
			} else {
				n.files = append(n.files, take.File)
			}
		}
	}
	for _, f := range lists.Made {
		n.files = append(n.files, f.Path)
	}
	return n, set.Err() == nil
}

// has reports whether the volume has, or may have, a file.
func (n *names) has(name string) bool {
	for _, dir := range n.dirs {
		if dir == "" || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	for _, file := range n.files {
		if file == name {
			return true
		}
	}
	return false
}

// secretFiles reports the names in spec.secretObjects that are no files of the volume. Those of a
// plugin's objects are not known.
func (l *linter) secretFiles(c *linted, entries []v1.SecretObject) {
	if c.class == nil || l.checker.providers[c.class.Provider] == nil {
		return
	}
	n, ok := namesOf(c.class)
	if !ok {
		return
	}
	for i := range entries {
		for j, d := range entries[i].Data {
			if d.ObjectName == "" || n.has(d.ObjectName) {
				continue
			}
			where := fmt.Sprintf("spec.secretObjects[%d].data[%d].objectName", i, j)
			message := fmt.Sprintf("%s: Invalid value: %q: the volume has no such file, so the Secret is not written", where, params.Clip(d.ObjectName))
			if like := class.Near(d.ObjectName, n.files); like != "" {
				message += fmt.Sprintf("; did you mean %s?", like)
			}
			l.doubtful(c, []string{message})
		}
	}
}
