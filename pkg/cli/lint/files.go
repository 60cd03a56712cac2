package lint

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/manifest"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
)

const (
	defaultMode = fs.FileMode(0o644)
	// mappedIDs is how many ids a pod's user namespace has, from 0 on, unless kubelet's
	// configuration says more (userNamespaces.idsPerPod).
	mappedIDs = 65536
)

// file is a file of a class, as its volume will have it.
type file struct {
	name string
	params.Access
}

// filesOf are a class's files, one for each mode and owner. Those of a plugin's objects are not
// known: only those that the class gives permissions.
func filesOf(c *class.Class, lists rendered.Lists, own bool) (files []file) {
	add := func(name string, a params.Access) {
		a = lists.Access(name, a)
		if a.Mode == 0 {
			a.Mode = defaultMode
		}
		if !slices.ContainsFunc(files, func(f file) bool { return f.Mode == a.Mode && f.Owner.Equal(a.Owner) }) {
			files = append(files, file{name, a})
		}
	}
	if own {
		set := params.New(c.Parameters, params.Known{Keys: []string{keyObjects}, Long: []string{keyObjects}})
		for _, o := range set.Objects(keyObjects) {
			add(o.FileName(), o.Access())
		}
	}
	for _, f := range lists.Made {
		add(f.Path, f.Access)
	}
	if !own {
		for _, f := range lists.Permissions {
			add(f.Path, f.Access)
		}
	}
	return files
}

// missing reports names in the lists of a class of a built-in provider, and in spec.secretObjects,
// that no file of its volumes has.
func (l *linter) missing(c *linted, lists rendered.Lists, entries []v1.SecretObject) {
	files := cluster.FilesOf(c.class.Parameters)
	may := func(name string) bool { return files.WholeOf(name) != nil }
	for _, message := range lists.Missing(files.Names, may) {
		l.say(c, finding.CodeNoSuchFile, fieldOf(message), message)
	}
	names := files.Names
	for _, f := range lists.Made {
		names = append(names, f.Path)
	}
	for i := range entries {
		for j, d := range entries[i].Data {
			if d.ObjectName == "" || slices.Contains(names, d.ObjectName) || may(d.ObjectName) {
				continue
			}
			l.doubtful(c, []string{fmt.Sprintf("spec.secretObjects[%d].data[%d].objectName: Invalid value: %q: the volume has no such file, so the Secret is not written%s",
				i, j, params.Clip(d.ObjectName), class.DidYouMean(d.ObjectName, names))})
		}
	}
}

// user is who a container runs as, as far as the manifest says.
type user struct {
	uid string // empty if the image tells
	// groups are the main group and all others.
	groups  []string
	fsGroup string
}

// userOf is false for root, and where the manifest says nothing.
func userOf(o *manifest.Object, spec *yaml.Node, c container) (u user, is bool) {
	setting := func(key string) string {
		if own := o.Text(c.node, "securityContext", key); own != "" {
			return own
		}
		return o.Text(spec, "securityContext", key)
	}
	u.uid, u.fsGroup = setting("runAsUser"), o.Text(spec, "securityContext", "fsGroup")
	for _, group := range append([]string{setting("runAsGroup"), u.fsGroup}, texts(o.Items(spec, "securityContext", "supplementalGroups"))...) {
		if group != "" {
			u.groups = append(u.groups, group)
		}
	}
	nonRoot, _ := strconv.ParseBool(setting("runAsNonRoot"))
	return u, u.uid != "0" && (u.uid != "" || nonRoot)
}

func texts(nodes []*yaml.Node) []string {
	list := make([]string, len(nodes))
	for i, n := range nodes {
		list[i] = n.Value
	}
	return list
}

// mayRead is true where it cannot be told.
func (u user) mayRead(f file) bool {
	mode, owner, group := f.Mode, "0", "0"
	if u.fsGroup != "" {
		group = u.fsGroup
		if f.Owner.IsZero() {
			mode |= 0o040
		}
	}
	if f.Owner.UID != nil {
		owner = strconv.FormatUint(uint64(*f.Owner.UID), 10)
	}
	if f.Owner.GID != nil {
		group = strconv.FormatUint(uint64(*f.Owner.GID), 10)
	}
	switch {
	case u.uid == owner:
		return mode&0o400 != 0
	case u.uid == "" && owner != "0" && mode&0o400 != 0:
		return true // the image's user may be the owner
	case slices.Contains(u.groups, group):
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}

// readable checks whether the container's user may read the files.
func (l *linter) readable(o *manifest.Object, spec *yaml.Node, c container, volumes []mounted) {
	u, is := userOf(o, spec, c)
	if !is {
		return
	}
	for _, n := range o.Items(c.node, "volumeMounts") {
		i := slices.IndexFunc(volumes, func(m mounted) bool { return m.name == o.Text(n, "name") })
		if i < 0 || volumes[i].found == nil {
			continue
		}
		for _, f := range volumes[i].found.files {
			if !u.mayRead(f) {
				l.at(o, o.Line(n), finding.CodeFileMode, finding.Finding{Message: fmt.Sprintf("container %q %s, and class %q has a file of mode %04o%s", c.name, u, volumes[i].class, f.Mode, f.whose())})
			}
		}
	}
}

// String says who the user is, for a finding.
func (u user) String() string {
	text := "does not run as root"
	if u.uid != "" {
		text = "runs as user " + u.uid
	}
	if u.fsGroup == "" {
		text += ", the pod has no fsGroup"
	}
	return text
}

func (f file) whose() string {
	if f.Owner.IsZero() {
		return ", which only root may read"
	}
	return " of " + f.ids() + ", which it may not read"
}

// ids are the file's own, in words.
func (f file) ids() string {
	var list []string
	if f.Owner.UID != nil {
		list = append(list, fmt.Sprintf("uid %d", *f.Owner.UID))
	}
	if f.Owner.GID != nil {
		list = append(list, fmt.Sprintf("gid %d", *f.Owner.GID))
	}
	return strings.Join(list, " and ")
}

// namespaced reports files of ids that the pod's user namespace does not have.
func (l *linter) namespaced(o *manifest.Object, spec *yaml.Node, m *mounted, csi *yaml.Node) {
	if hostUsers, err := strconv.ParseBool(o.Text(spec, "hostUsers")); hostUsers || err != nil || m.found == nil {
		return
	}
	for _, f := range m.found.files {
		for _, id := range []*uint32{f.Owner.UID, f.Owner.GID} {
			if id != nil && *id >= mappedIDs {
				l.at(o, o.Line(csi), finding.CodeUserNamespace, finding.Finding{
					Message: fmt.Sprintf("the pod has hostUsers: false, and file %q of class %q has %s: its user namespace has only the ids 0 to %d", params.Clip(f.name), m.class, f.ids(), mappedIDs-1),
				})
				break
			}
		}
	}
}
