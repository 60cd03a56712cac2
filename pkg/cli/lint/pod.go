package lint

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/manifest"
	"github.com/mayfly-csi/mayfly/pkg/identity"
)

const keyClass = "secretProviderClass"

// mounted is a pod's volume of the driver.
type mounted struct {
	name, class string
	found       *linted // nil if it is not in the files, or refused
}

// container is one of a pod's, of any kind.
type container struct {
	name string
	node *yaml.Node
}

// pod checks an object that is a pod or makes pods.
func (l *linter) pod(o *manifest.Object) {
	spec := o.Get(o.Node, manifest.PodPath(o.Kind)...)
	var volumes []mounted
	for _, v := range o.Items(spec, "volumes") {
		csi := o.Get(v, "csi")
		if csi == nil {
			continue
		}
		if driver := o.Text(csi, "driver"); driver != l.driver {
			if class.Near(driver, []string{l.driver}) != "" {
				l.at(o, o.Line(o.Get(csi, "driver")), finding.CodeDriverName, finding.Finding{
					Message: fmt.Sprintf("volume %q names the driver %q, and Mayfly's is %q", o.Text(v, "name"), driver, l.driver),
					Remedy:  fmt.Sprintf("did you mean %q?", l.driver),
				})
			}
			continue
		}
		volumes = append(volumes, l.volume(o, o.Text(v, "name"), csi))
		l.namespaced(o, spec, &volumes[len(volumes)-1], csi)
	}
	var containers []container
	for _, kind := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for _, n := range o.Items(spec, kind) {
			containers = append(containers, container{o.Text(n, "name"), n})
		}
	}
	for _, c := range containers {
		l.mounts(o, c, volumes)
		l.variables(o, c, volumes)
		l.readable(o, spec, c, volumes)
	}
}

// volume checks the csi part of a volume.
func (l *linter) volume(o *manifest.Object, name string, csi *yaml.Node) mounted {
	at := o.Line(csi)
	readOnly := o.Get(csi, "readOnly")
	if on, _ := strconv.ParseBool(o.Text(csi, "readOnly")); !on {
		line := at
		if readOnly != nil {
			line = o.Line(readOnly)
		}
		l.at(o, line, finding.CodeNotReadOnly, finding.Finding{Message: fmt.Sprintf("volume %q is not readOnly, so the driver refuses it", name)})
	}
	m := mounted{name: name, class: o.Text(csi, "volumeAttributes", keyClass)}
	var others []string
	for _, e := range o.Entries(o.Get(csi, "volumeAttributes")) {
		if e.Key == keyClass || strings.HasPrefix(e.Key, "csi.storage.k8s.io/") {
			continue
		}
		others = append(others, e.Key)
		l.at(o, o.Line(e.Where), finding.CodeIgnoredAttribute, finding.Finding{
			Message: fmt.Sprintf("volume %q has the attribute %q, which the driver ignores: it reads everything but the class's name from the class", name, e.Key),
		})
	}
	if m.class == "" {
		f := finding.Finding{Message: fmt.Sprintf("volume %q has no volumeAttributes.%s", name, keyClass)}
		if like := class.Near(keyClass, others); like != "" {
			f.Remedy = fmt.Sprintf("it has volumeAttributes.%s: write %s", like, keyClass)
		}
		l.at(o, at, finding.CodeNoClass, f)
		return m
	}
	m.found = l.lookUp(o, o.Line(o.Get(csi, "volumeAttributes", keyClass)), m)
	return m
}

// lookUp finds the class of a volume among the files. An unknown namespace matches every other.
func (l *linter) lookUp(o *manifest.Object, line int, m mounted) *linted {
	var names, elsewhere []string
	for _, c := range l.classes {
		near := c.Namespace == o.Namespace || c.Namespace == "" || o.Namespace == ""
		switch {
		case c.Name == m.class && near:
			return c
		case c.Name == m.class:
			elsewhere = append(elsewhere, c.Namespace)
		case near:
			names = append(names, c.Name)
		}
	}
	if len(elsewhere) > 0 {
		l.at(o, line, finding.CodeOtherNamespace, finding.Finding{
			Message: fmt.Sprintf("volume %q names the class %q, which is in namespace %s, and a pod can use only classes of its own namespace", m.name, m.class, strings.Join(elsewhere, ", ")),
			Remedy:  fmt.Sprintf("put the class into namespace %s too", o.Namespace),
		})
		return nil
	}
	f := finding.Finding{Message: fmt.Sprintf("volume %q names the class %q, which is not %s", m.name, m.class, l.among())}
	if like := class.Near(m.class, names); like != "" {
		f.Level, f.Remedy = finding.Warning, fmt.Sprintf("did you mean %q?", like)
	}
	l.at(o, line, finding.CodeClassNotGiven, f)
	return nil
}

// mounts checks where a container mounts the volumes.
func (l *linter) mounts(o *manifest.Object, c container, volumes []mounted) {
	type mount struct {
		path, volume string
		line         int
	}
	var before []mount
	ours := func(name string) bool {
		return slices.ContainsFunc(volumes, func(m mounted) bool { return m.name == name })
	}
	for _, n := range o.Items(c.node, "volumeMounts") {
		m := mount{path.Clean("/" + o.Text(n, "mountPath")), o.Text(n, "name"), o.Line(n)}
		if ours(m.volume) {
			for _, key := range []string{"subPath", "subPathExpr"} {
				if v := o.Get(n, key); v != nil && o.Text(n, key) != "" {
					l.at(o, o.Line(v), finding.CodeSubPath, finding.Finding{
						Message: fmt.Sprintf("container %q mounts volume %q with %s, and such a mount never shows a rotation", c.name, m.volume, key),
					})
				}
			}
		}
		for _, b := range before {
			if !ours(m.volume) && !ours(b.volume) {
				continue
			}
			switch {
			case m.path == b.path:
				l.at(o, m.line, finding.CodeMountsCollide, finding.Finding{Message: fmt.Sprintf("container %q mounts volumes %q and %q both at %s", c.name, b.volume, m.volume, m.path)})
			case ours(b.volume) && strings.HasPrefix(m.path, b.path+"/"), ours(m.volume) && strings.HasPrefix(b.path, m.path+"/"):
				l.at(o, m.line, finding.CodeMountsCollide, finding.Finding{Level: finding.Warning,
					Message: fmt.Sprintf("container %q mounts volumes %q at %s and %q at %s: no directory can be created in the driver's volume, which is read-only", c.name, b.volume, b.path, m.volume, m.path)})
			}
		}
		before = append(before, m)
	}
}

// ofClass is what to say about a Secret that a class lists; nothing if the driver writes it before
// the containers start.
func (l *linter) ofClass(mounted bool) finding.Finding {
	switch {
	case l.operator != nil && !l.operator.SyncSecrets:
		return finding.Finding{Message: "the driver of this cluster writes no Secrets"}
	case !mounted:
		return finding.Finding{Message: "no volume of this pod mounts the class, so nothing creates the Secret before it starts", Remedy: "mount the class in the pod"}
	case l.operator == nil:
		return finding.Finding{
			Level: finding.Info, Message: "the driver writes it if the operator enabled that",
			Remedy: "check that the chart's syncSecret has the Secret or its namespace",
		}
	}
	return finding.Finding{}
}

// variables checks the environment from Secrets.
func (l *linter) variables(o *manifest.Object, c container, volumes []mounted) {
	check := func(ref *yaml.Node, what string) {
		name := o.Text(ref, "name")
		if name == "" || l.hasSecret(o, name) {
			return
		}
		for _, k := range l.classes {
			if !slices.Contains(k.secrets, name) || k.Namespace != o.Namespace && k.Namespace != "" && o.Namespace != "" {
				continue
			}
			mounted := slices.ContainsFunc(volumes, func(v mounted) bool { return v.class == k.Name })
			if f := l.ofClass(mounted); f.Message != "" {
				f.Message = fmt.Sprintf("container %q takes %s from Secret %q, which class %q lists under secretObjects: %s", c.name, what, name, k.Name, f.Message)
				l.at(o, o.Line(ref), finding.CodeSecretVariable, f)
			}
			return
		}
		known := ", which is not in these files, and not in a class that the pod mounts"
		if l.cluster {
			known = ", which is not in a class that the pod mounts"
		}
		if optional, _ := strconv.ParseBool(o.Text(ref, "optional")); len(volumes) > 0 && !optional {
			l.at(o, o.Line(ref), finding.CodeSecretVariable, finding.Finding{
				Level:   finding.Info,
				Message: fmt.Sprintf("container %q takes %s from Secret %q%s", c.name, what, name, known),
				Remedy:  "check that the cluster has the Secret",
			})
		}
	}
	for _, n := range o.Items(c.node, "env") {
		if ref := o.Get(n, "valueFrom", "secretKeyRef"); ref != nil {
			check(ref, fmt.Sprintf("variable %q", o.Text(n, "name")))
		}
	}
	for _, n := range o.Items(c.node, "envFrom") {
		if ref := o.Get(n, "secretRef"); ref != nil {
			check(ref, "variables")
		}
	}
}

func (l *linter) hasSecret(o *manifest.Object, name string) bool {
	return slices.ContainsFunc(l.secrets, func(s *manifest.Object) bool {
		return s.Name == name && (s.Namespace == o.Namespace || s.Namespace == "" || o.Namespace == "")
	})
}

// csiDriver checks the CSIDriver object of the driver.
func (l *linter) csiDriver(o *manifest.Object) {
	bad := func(keys []string, format string, args ...any) {
		line := o.Line(o.Node)
		if n := o.Get(o.Node, keys...); n != nil {
			line = o.Line(n)
		}
		l.at(o, line, finding.CodeDriverObject, finding.Finding{Message: strings.Join(keys, ".") + " " + fmt.Sprintf(format, args...)})
	}
	if on, _ := strconv.ParseBool(o.Text(o.Node, "spec", "podInfoOnMount")); !on {
		bad([]string{"spec", "podInfoOnMount"}, "is not true, so the driver does not learn which pod a volume is for, and refuses it")
	}
	if !slices.ContainsFunc(o.Items(o.Node, "spec", "volumeLifecycleModes"), func(n *yaml.Node) bool { return n.Value == "Ephemeral" }) {
		bad([]string{"spec", "volumeLifecycleModes"}, "has no Ephemeral, so kubelet mounts no inline volume")
	}
	if attach := o.Text(o.Node, "spec", "attachRequired"); attach != "false" {
		bad([]string{"spec", "attachRequired"}, "is not false, so pods wait for an attachment that is never made")
	}
}

// audiences reports classes whose audience no CSIDriver of the files requests.
func (l *linter) audiences() {
	if len(l.drivers) == 0 {
		return
	}
	var requested []string
	for _, o := range l.drivers {
		for _, r := range o.Items(o.Node, "spec", "tokenRequests") {
			if a := o.Text(r, "audience"); !slices.Contains(requested, a) {
				requested = append(requested, a)
			}
		}
	}
	o := l.drivers[0]
	for _, c := range l.classes {
		if c.login.Audience == "" || slices.Contains(requested, c.login.Audience) || c.login.Audience == identity.APIServer && slices.Contains(requested, "") {
			continue
		}
		where := fmt.Sprintf("at %s:%d", o.File, o.Line(o.Node))
		if l.cluster {
			where = o.Name
		}
		f := finding.Finding{
			Message: fmt.Sprintf("the class logs in with a token for audience %q, and the CSIDriver %s requests %q", c.login.Audience, where, requested),
			Remedy:  fmt.Sprintf("add {audience: %q} to spec.tokenRequests of the CSIDriver (the chart's tokenRequests)", c.login.Audience),
		}
		if like := class.Near(c.login.Audience, requested); like != "" {
			f.Remedy = fmt.Sprintf("did you mean audience %q? Otherwise %s", like, f.Remedy)
		}
		l.at(c.Object, c.locate("spec.parameters.audience", ""), finding.CodeAudience, f)
	}
}
