package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/klog/v2"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

// nodeLinks are the links that all volumes share.
type nodeLinks struct{ *walk }

// noPods reports a target that has no pod to explain.
func (w *walk) noPods() bool {
	set := w.set
	if set.worst != nil && (set.failure == "" || set.Kind == "Job" || set.Kind == "CronJob") {
		return false
	}
	why := set.failure
	switch {
	case why == "" && set.want == 0:
		why = "its replica count is 0"
	case why == "":
		why = "the reason is unknown"
	}
	f := finding.Finding{Object: set.Object, Message: fmt.Sprintf("%d of %d pods exist: %s", len(set.all), set.want, why)}
	lower := strings.ToLower(why)
	switch {
	case strings.Contains(lower, "inline volume provided by csidriver"):
		f.Remedy = "label the CSIDriver object security.openshift.io/csi-ephemeral-volume-profile=restricted, as Mayfly's chart does"
	case strings.Contains(lower, "serviceaccount") && strings.Contains(lower, "not found"):
		f.Remedy = "create the service account, or correct serviceAccountName"
	case strings.Contains(lower, "exceeded quota"):
		f.Remedy = "raise the quota, or request less"
	case strings.Contains(lower, "violates podsecurity"):
		f.Remedy = "correct what the message names; Mayfly's csi volumes are allowed at every level"
	case set.want == 0 && set.failure == "":
		f.Level, f.Remedy = finding.Info, "there is nothing to explain before it creates pods"
	}
	w.report.Objects = 1 + len(set.all)
	if set.worst == nil {
		w.report.Check("pods", finding.Bad, "it has none")
		w.report.Add(finding.CodeNoPods, f)
		return true
	}
	f.Level = finding.Warning
	w.report.Add(finding.CodeNoPods, f)
	return false
}

func (w nodeLinks) podLink() result {
	p := w.pod
	_, state := w.stateOf(p)
	detail := fmt.Sprintf("%s/%s is %s, created %s", p.Namespace, p.Name, state, w.ago(p.CreationTimestamp.Time))
	if w.set.Kind != "Pod" {
		detail = fmt.Sprintf("%s, the worst of %d; %d of them %s so", detail, len(w.set.all), w.set.alike, isOrAre(w.set.alike))
	}
	switch {
	case p.Annotations[corev1.MirrorPodAnnotationKey] != "" && len(w.volumes) > 0:
		return bad(finding.CodeStaticPod, finding.Finding{Message: "is a static pod of its node, so kubelet requests no service account tokens for it"}, "%s", detail)
	case p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		w.report.Add(finding.CodePodEnded, finding.Finding{Object: about("Pod", p.Namespace, p.Name), Message: "has ended: " + cmp.Or(p.Status.Message, state)})
		w.over = "the pod has ended"
	case len(w.volumes) == 0:
		f := finding.Finding{Message: fmt.Sprintf("has no volume of the CSI driver %s", w.DriverName)}
		if names := w.otherDrivers(); len(names) > 0 {
			f.Message += ", only of " + quoted(names)
			for _, name := range names {
				if class.Near(w.DriverName, []string{name}) != "" {
					f.Level, f.Remedy = finding.Error, fmt.Sprintf("did you mean %q?", w.DriverName)
				}
			}
		}
		f.Object = about("Pod", p.Namespace, p.Name)
		w.report.Add(finding.CodeNoVolume, f)
	}
	return good("%s", detail)
}

func isOrAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func (w nodeLinks) otherDrivers() []string {
	var names []string
	for _, v := range w.pod.Spec.Volumes {
		if v.CSI != nil && !slices.Contains(names, v.CSI.Driver) {
			names = append(names, v.CSI.Driver)
		}
	}
	return names
}

func (w nodeLinks) schedulingLink() result {
	if w.pod.Spec.NodeName != "" {
		return good("on node %s", w.pod.Spec.NodeName)
	}
	why := "the scheduler has not reported a reason yet"
	if c := podCondition(w.pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		why = c.Message
	}
	f := finding.Finding{Message: "is not scheduled: " + why}
	switch lower := strings.ToLower(why); {
	case strings.Contains(lower, "volumes not supported"), strings.Contains(lower, "unsupported volume"):
		f.Remedy = "such nodes, as those of AWS Fargate and virtual ones, run no DaemonSet, so no CSI driver: let the pod run on a real node"
	case strings.Contains(lower, "untolerated taint"):
		tainted := w.tainted()
		if len(tainted) > 0 {
			f.Message += fmt.Sprintf(" (%s of %s)", startupTaint, quoted(tainted))
		}
		if !w.nodes.known() || len(tainted) > 0 {
			f.Remedy = "the start-up taint " + startupTaint + " is removed when the driver on the node is ready: kubectl get pods -n " + w.driverNamespace() + " -l " + cluster.DriverLabels +
				" -o wide; the chart's startupTaint.remove must be true. For any other taint give the pod a toleration"
		}
	}
	return bad(finding.CodeNotScheduled, f, "on no node")
}

// startupTaint is the chart's default taint.
const startupTaint = "node.mayfly.dev/not-ready"

// tainted are the nodes that wait for their driver.
func (w nodeLinks) tainted() []string {
	var names []string
	for _, n := range w.nodes.value {
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == startupTaint }) {
			names = append(names, n.Name)
		}
	}
	return names
}

func (w *walk) driverNamespace() string {
	if w.csiDriver.known() {
		return shell(w.namespace)
	}
	return "NAMESPACE"
}

func (w nodeLinks) nodeLink() result {
	name := w.pod.Spec.NodeName
	o := about("Node", "", name)
	if p := w.pod.Spec.OS; p != nil && p.Name == corev1.Windows {
		return bad(finding.CodeNodeUnsuitable, finding.Finding{Message: "is a pod for Windows, which the driver does not serve"}, "runs Windows")
	}
	if !w.node.known() {
		return w.unknown(o, w.node.err)
	}
	n := w.node.value
	if n == nil {
		return bad(finding.CodeNodeUnsuitable, finding.Finding{Object: o, Message: "is no longer in the cluster", Remedy: "delete the pod, so that its controller creates another"}, "%s does not exist", name)
	}
	switch {
	case n.Labels[corev1.LabelOSStable] == "windows":
		return bad(finding.CodeNodeUnsuitable, finding.Finding{Object: o, Message: "runs Windows, which the driver does not serve"}, "%s runs Windows", name)
	case n.Labels["eks.amazonaws.com/compute-type"] == "fargate", n.Labels["type"] == "virtual-kubelet":
		return bad(finding.CodeNodeUnsuitable, finding.Finding{Object: o, Message: "is a virtual node, as those of AWS Fargate are, and runs no DaemonSet, so no CSI driver"}, "%s is virtual", name)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return bad(finding.CodeNodeUnsuitable, finding.Finding{
				Object: o, Message: fmt.Sprintf("has not been ready for %s: %s", duration.HumanDuration(w.now.Sub(c.LastTransitionTime.Time)), c.Message),
				Remedy: "check kubelet on that node; until it is ready again, nothing is mounted or refreshed there",
			}, "%s is not ready", name)
		}
	}
	return good("%s is ready", name)
}

// driverLink checks the driver's pod on the node.
func (w nodeLinks) driverLink() result {
	o := about("Pod", w.namespace, "")
	if !w.driver.known() {
		o.Name = "*"
		return w.unknown(o, w.driver.err)
	}
	p := w.driver.value
	if p == nil {
		return w.noDriver()
	}
	o.Name = p.Name
	if isReady(p) {
		return good("%s/%s is ready for %s", p.Namespace, p.Name, duration.HumanDuration(w.now.Sub(w.readySince())))
	}
	why := string(p.Status.Phase)
	if c := waiting(p); c != nil {
		why = strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
	}
	f := finding.Finding{Object: o, Message: "is not ready: " + why,
		Remedy: fmt.Sprintf("kubectl describe pod -n %s %s; kubectl logs -n %s %s", shell(p.Namespace), shell(p.Name), shell(p.Namespace), shell(p.Name))}
	for _, s := range p.Status.ContainerStatuses {
		if t := s.LastTerminationState.Terminated; t != nil && t.Reason == "OOMKilled" {
			f.Message += "; its last termination was OOMKilled"
			f.Remedy = "raise linux.driver.resources.limits.memory of the chart: it includes the files of the node's volumes"
		}
	}
	return bad(finding.CodeDriverNotReady, f, "%s/%s is not ready", p.Namespace, p.Name)
}

// readySince is when the driver's pod became ready; zero if unknown.
func (w *walk) readySince() time.Time {
	if w.driver.value != nil {
		if c := podCondition(w.driver.value, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// noDriver says why there is no pod of the driver on the node.
func (w nodeLinks) noDriver() result {
	f := finding.Finding{
		Object:  about("Node", "", w.pod.Spec.NodeName),
		Message: fmt.Sprintf("has no pod of the driver: no pod on it in namespace %[2]s has the label %[1]s", cluster.DriverLabels, w.namespace),
	}
	switch sets := w.daemonSets.value; {
	case !w.daemonSets.known():
	case len(sets) == 0:
		f.Remedy = "install Mayfly's chart, or name its namespace with --driver-namespace"
	case w.node.value != nil:
		if why := excluded(&sets[0], w.node.value); why != "" {
			f.Message += ", because " + why
		}
	}
	return bad(finding.CodeDriverAbsent, f, "%s has no pod of it", w.pod.Spec.NodeName)
}

// excluded says what keeps the pods of a DaemonSet off a node; empty if it is neither the node
// selector nor taints.
func excluded(set *appsv1.DaemonSet, n *corev1.Node) string {
	spec := &set.Spec.Template.Spec
	name := "DaemonSet " + set.Namespace + "/" + set.Name
	if !labels.SelectorFromSet(spec.NodeSelector).Matches(labels.Set(n.Labels)) {
		return fmt.Sprintf("the nodeSelector of %s, %s, does not match the node", name, labels.Set(spec.NodeSelector))
	}
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		tolerated := strings.HasPrefix(t.Key, "node.kubernetes.io/") || slices.ContainsFunc(spec.Tolerations, func(own corev1.Toleration) bool {
			return own.ToleratesTaint(klog.Background(), t, true)
		})
		if !tolerated && t.Effect != corev1.TaintEffectPreferNoSchedule {
			return fmt.Sprintf("%s does not tolerate the node's taint %s", name, t.ToString())
		}
	}
	return ""
}

func (w nodeLinks) registrationLink() result {
	name := w.pod.Spec.NodeName
	o := about("CSINode", "", name)
	if !w.csiNode.known() {
		return w.unknown(o, w.csiNode.err)
	}
	if n := w.csiNode.value; n != nil {
		for _, d := range n.Spec.Drivers {
			if d.Name == w.DriverName {
				return good("%s has %s", name, d.Name)
			}
		}
	}
	f := finding.Finding{Object: o, Message: fmt.Sprintf("does not list the driver %s, although its pod is ready", w.DriverName)}
	if !w.driver.known() {
		f.Message = fmt.Sprintf("does not list the driver %s", w.DriverName)
		f.Remedy = "check whether the node has a ready pod of the driver; if it has: " + finding.RuleOf(finding.CodeNotRegistered).Remedy
	}
	return bad(finding.CodeNotRegistered, f, "%s does not list %s", name, w.DriverName)
}

func (w nodeLinks) csiDriverLink() result {
	o := about("CSIDriver", "", w.DriverName)
	if !w.csiDriver.known() {
		return w.unknown(o, w.csiDriver.err)
	}
	if w.csiDriver.value == nil {
		return bad(finding.CodeNoCSIDriver, finding.Finding{Object: o, Message: "does not exist, so kubelet mounts no inline volume of it"}, "there is no %s", w.DriverName)
	}
	if found := w.findings(o.Kind, o.Name, finding.CodeDriverObject); len(found) > 0 {
		f := finding.Finding{Object: o, Message: joined(found)}
		if other := w.csiDriver.value.Annotations["meta.helm.sh/release-name"]; other != "" {
			f.Message += fmt.Sprintf(" (it is of Helm's release %s)", other)
		}
		return bad(finding.CodeDriverObject, f, "%s does not fit", o.Name)
	}
	return good("%s", w.DriverName)
}
