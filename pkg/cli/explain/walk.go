package explain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/lint"
)

// The links of the chain, in their order.
const (
	linkPod          = "pod"
	linkScheduling   = "scheduling"
	linkNode         = "node"
	linkDriver       = "driver"
	linkRegistration = "CSINode"
	linkCSIDriver    = "CSIDriver"
	linkVolume       = "volume"
	linkClass        = "class"
	linkProvider     = "provider"
	linkAccount      = "service account"
	linkAudience     = "audience"
	linkLive         = "live state"
	linkStore        = "store"
	linkFiles        = "files"
	linkContainers   = "containers"
)

// walk follows the chain.
type walk struct {
	*look
	report  *finding.Report
	set     *pods
	volumes []*volume
	linted  *lint.Result
	flags   map[string]string // of the driver
	broken  bool
	// over is why the walk ends although nothing is broken.
	over string
}

// volume is one of the pod's volumes of the driver.
type volume struct {
	name, class string
	source      *corev1.CSIVolumeSource
	spc         *v1.SecretProviderClass // nil if there is none, or it could not be read
	status      *v1.SecretProviderClassPodStatus
	login       lint.Login
	trouble     *trouble
	broken      bool
	// past says that the failure no longer applies.
	past bool
}

// result is the state of a link: good if finding has no code.
type result struct {
	state  finding.State
	detail string
	code   string
	finding.Finding
}

func good(format string, args ...any) result {
	return result{state: finding.Good, detail: fmt.Sprintf(format, args...)}
}

// unknown is for objects that could not be read.
func (w *walk) unknown(o finding.Object, err error) result {
	cluster.NotSeen(w.report, o, err)
	return result{state: finding.Unknown, detail: "could not be read"}
}

func skipped(format string, args ...any) result {
	return result{state: finding.Skipped, detail: fmt.Sprintf(format, args...)}
}

// bad is a broken link.
func bad(code string, f finding.Finding, format string, args ...any) result {
	return result{state: finding.Bad, detail: fmt.Sprintf(format, args...), code: code, Finding: f}
}

// prepare joins the objects that belong together.
func (w *walk) prepare() error {
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		if v.CSI == nil || v.CSI.Driver != w.DriverName {
			continue
		}
		w.volumes = append(w.volumes, &volume{name: v.Name, class: v.CSI.VolumeAttributes["secretProviderClass"], source: v.CSI})
	}
	w.flags = flagsOf(w.driver.value)
	if err := w.lint(); err != nil {
		return err
	}
	for _, v := range w.volumes {
		v.status = w.statusOf(v.class)
		if v.spc != nil {
			v.login = w.linted.Logins[class.Ref{Namespace: v.spc.Namespace, Name: v.spc.Name}]
		}
		v.trouble = troubles{w}.troubleOf(v)
	}
	w.report.Objects = w.count()
	return nil
}

// count is how many objects were read, without Events.
func (w *walk) count() int {
	n := len(w.set.all)
	for _, there := range []bool{w.node.value != nil, w.csiNode.value != nil, w.csiDriver.value != nil, w.driver.value != nil, w.account.value != nil} {
		if there {
			n++
		}
	}
	for _, v := range w.volumes {
		if v.spc != nil {
			n++
		}
		if v.status != nil {
			n++
		}
	}
	return n
}

// lint runs lint on the pod, its classes, those that list Secrets, and the CSIDriver object.
func (w *walk) lint() error {
	pod := w.pod.DeepCopy()
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	pod.ManagedFields, pod.Status = nil, corev1.PodStatus{}
	objects := []any{pod}
	for i := range w.classes.value {
		c := &w.classes.value[i]
		mounted := false
		for _, v := range w.volumes {
			if v.class == c.Name {
				v.spc, mounted = c, true
			}
		}
		if mounted || len(c.Spec.SecretObjects) > 0 {
			objects = append(objects, &v1.SecretProviderClass{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
				ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name}, Spec: c.Spec,
			})
		}
	}
	if d := w.csiDriver.value; d != nil {
		d = d.DeepCopy()
		d.TypeMeta = metav1.TypeMeta{APIVersion: "storage.k8s.io/v1", Kind: "CSIDriver"}
		d.ManagedFields = nil
		objects = append(objects, d)
	}
	var err error
	if w.linted, err = lint.Check(lint.Cluster{Driver: w.DriverName, Objects: objects, Operator: operatorOf(w.driver.value)}); err != nil {
		// The driver runs, so its flags are valid.
		w.linted, err = lint.Check(lint.Cluster{Driver: w.DriverName, Objects: objects})
	}
	return err
}

// findings are lint's findings of the given codes about an object.
func (w *walk) findings(kind, name string, codes ...string) []finding.Finding {
	var found []finding.Finding
	for _, f := range w.linted.Findings {
		if f.Object.Kind == kind && f.Object.Name == name && slices.Contains(codes, f.Code) {
			found = append(found, f)
		}
	}
	return found
}

// links goes through the chain.
func (w *walk) links(ctx context.Context) {
	shared, own := nodeLinks{w}, volumeLinks{w}
	for _, link := range []struct {
		title string
		look  func() result
	}{
		{linkPod, shared.podLink},
		{linkScheduling, shared.schedulingLink},
		{linkNode, shared.nodeLink},
		{linkDriver, shared.driverLink},
		{linkRegistration, shared.registrationLink},
		{linkCSIDriver, shared.csiDriverLink},
	} {
		w.link(nil, link.title, link.look)
	}
	brokenForAll := w.broken
	for _, v := range w.volumes {
		w.broken = brokenForAll
		for _, link := range []struct {
			title string
			look  func(context.Context, *volume) result
		}{
			{linkVolume, own.volumeLink},
			{linkClass, own.classLink},
			{linkProvider, own.providerLink},
			{linkAccount, own.accountLink},
			{linkAudience, own.audienceLink},
			{linkLive, own.liveLink},
			{linkStore, own.storeLink},
			{linkFiles, own.filesLink},
		} {
			w.link(v, link.title, func() result { return link.look(ctx, v) })
		}
		v.broken = w.broken
	}
	w.broken = brokenForAll || slices.ContainsFunc(w.volumes, func(v *volume) bool { return v.broken })
	w.link(nil, linkContainers, podLinks{w}.containersLink)
}

// link checks one link of the chain, unless an earlier one is broken. If the objects do not decide,
// the texts of the driver or kubelet may.
func (w *walk) link(v *volume, title string, look func() result) {
	shown := title
	if v != nil && len(w.volumes) > 1 {
		shown = fmt.Sprintf("volume %q: %s", v.name, title)
	}
	if w.broken || w.over != "" {
		w.report.Check(shown, finding.Skipped, cmp.Or(w.over, "an earlier check failed"))
		return
	}
	out := look()
	if out.state != finding.Bad {
		out = w.asTold(v, title, out)
	}
	w.report.Check(shown, out.state, out.detail)
	if out.state != finding.Bad {
		return
	}
	w.broken = true
	f := out.Finding
	if f.Object == (finding.Object{}) {
		f.Object = about("Pod", w.pod.Namespace, w.pod.Name)
	}
	if title != linkContainers && w.isMounted(v) {
		f.Level = cmp.Or(f.Level, finding.Warning) // running pods go on
	}
	w.report.Add(out.code, f)
}

// asTold reports a broken link if a volume's last failure says so. If the objects show that it has
// been repaired since, the failure is past.
func (w *walk) asTold(v *volume, title string, out result) result {
	of := w.volumes
	if v != nil {
		of = []*volume{v}
	}
	for _, v := range of {
		t := v.trouble
		if t == nil || t.row.link != title {
			continue
		}
		if out.state == finding.Good && t.row.mendable && !(t.row.code == finding.CodeNoSocket && t.last.After(w.readySince())) {
			v.past = true
			continue
		}
		return w.broke(v)
	}
	return out
}

// isMounted reports whether a volume is in the pod, or all volumes for nil.
func (w *walk) isMounted(v *volume) bool {
	if w.passed() != nil {
		return true
	}
	for _, one := range w.volumes {
		if (v == nil || v == one) && !one.isReady() {
			return false
		}
	}
	return len(w.volumes) > 0
}

// passed is when the pod had all of its volumes; nil if it does not have them yet.
func (w *walk) passed() *metav1.Time {
	if c := podCondition(w.pod, corev1.PodReadyToStartContainers); c != nil {
		if c.Status == corev1.ConditionTrue {
			return &c.LastTransitionTime
		}
		return nil
	}
	for _, s := range slices.Concat(w.pod.Status.InitContainerStatuses, w.pod.Status.ContainerStatuses) {
		if s.State.Running != nil {
			return &s.State.Running.StartedAt
		}
		if s.LastTerminationState.Terminated != nil {
			return &s.LastTerminationState.Terminated.StartedAt
		}
	}
	return nil
}

// done ends the report.
func (w *walk) done() *finding.Report { return w.report }

// ago is for people: "3m ago".
func (w *walk) ago(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return duration.HumanDuration(w.now.Sub(t)) + " ago"
}

// quoted lists names for people.
func quoted(names []string) string { return fmt.Sprintf("%q", names) }

// joined makes one sentence of several.
func joined(list []finding.Finding) string {
	var all []string
	for _, f := range list {
		all = append(all, f.Message)
	}
	return strings.Join(all, "; ")
}
