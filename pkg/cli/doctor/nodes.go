package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// nodes checks whether the driver runs and is registered on every node.
func (d *driver) nodes(ctx context.Context) {
	const title = "the driver on every node"
	if d.skipWithoutSet(title) {
		return
	}
	pods := map[string]*corev1.Pod{}
	for i := range d.pods {
		p := &d.pods[i]
		if old := pods[p.Spec.NodeName]; old == nil || !ready(old) {
			pods[p.Spec.NodeName] = p
		}
	}
	registered, err := d.registered(ctx)
	if err != nil {
		d.notSeen(all("CSINode", ""), err)
	}
	found, total, good := 0, 0, 0
	var without, tainted some
	err = cluster.Pages(func(o metav1.ListOptions) (string, error) {
		l, err := d.client.CoreV1().Nodes().List(ctx, o)
		return each(l, err, func() []corev1.Node { return l.Items }, func(n *corev1.Node) {
			total++
			pod := pods[n.Name]
			switch {
			case pod == nil && d.passesBy(n):
				tainted.add(n.Name)
			case pod == nil:
				found++
				without.add(n.Name)
			default:
				bad := d.node(n.Name, pod, registered)
				found += bad
				if bad == 0 {
					good++
				}
			}
		})
	})
	if err != nil {
		d.notSeen(all("Node", ""), err)
		for _, name := range sortedKeys(pods) {
			total++
			bad := d.node(name, pods[name], registered)
			found += bad
			if bad == 0 {
				good++
			}
		}
	}
	if without.count > 0 {
		d.add(finding.CodeNodeWithoutDriver, finding.Finding{Object: d.about(), Message: fmt.Sprintf("%s without a pod of the driver: %s; pods with classes do not start there", output.Plural(without.count, "node"), &without)})
	}
	if tainted.count > 0 {
		d.add(finding.CodeNodeWithoutDriver, finding.Finding{Level: finding.Info, Object: d.about(), Message: fmt.Sprintf("%s that the DaemonSet's nodeSelector or the node's taints exclude: %s; pods with classes do not start there", output.Plural(tainted.count, "node"), &tainted),
			Remedy: "none if no pod with a class is scheduled there; otherwise set linux.tolerations and linux.nodeSelector of the chart"})
	}
	d.recordCheck(title, found, fmt.Sprintf("ready on %d of %s", good, output.Plural(total, "node")))
}

// node checks the driver's pod on a node.
func (d *driver) node(name string, pod *corev1.Pod, registered map[string]bool) (found int) {
	about := finding.Object{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
	if !ready(pod) {
		d.add(finding.CodeNodeWithoutDriver, finding.Finding{Object: about, Message: fmt.Sprintf("is not ready on node %s: %s", name, state(pod))})
		return 1
	}
	if registered != nil && !registered[name] {
		d.add(finding.CodeNodeWithoutDriver, finding.Finding{Object: about, Message: fmt.Sprintf("is ready on node %s, but its CSINode does not list the driver: kubelet does not know it", name),
			Remedy: "check whether linux.kubeletRootDir of the chart is kubelet's own"})
		return 1
	}
	return 0
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(x corev1.PodCondition) bool {
		return x.Type == corev1.PodReady && x.Status == corev1.ConditionTrue
	})
}

// state says why a pod is not ready.
func state(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			return strings.TrimSuffix(fmt.Sprintf("%s: %s", s.State.Waiting.Reason, s.State.Waiting.Message), ": ")
		case s.State.Terminated != nil:
			return fmt.Sprintf("%s, exit code %d", s.State.Terminated.Reason, s.State.Terminated.ExitCode)
		case !s.Ready:
			return fmt.Sprintf("its container runs, but has not become ready after %s", output.Plural(int(s.RestartCount), "restart"))
		}
	}
	return "it is " + string(p.Status.Phase)
}

// registered are the nodes where kubelet has registered the driver; nil if they cannot be read.
func (d *driver) registered(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	err := cluster.Pages(func(o metav1.ListOptions) (string, error) {
		l, err := d.client.StorageV1().CSINodes().List(ctx, o)
		return each(l, err, func() []storagev1.CSINode { return l.Items }, func(n *storagev1.CSINode) {
			names[n.Name] = slices.ContainsFunc(n.Spec.Drivers, func(x storagev1.CSINodeDriver) bool { return x.Name == d.client.DriverName })
		})
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// passesBy reports whether the DaemonSet makes no pod on a node.
func (d *driver) passesBy(n *corev1.Node) bool {
	spec := &d.set.Spec.Template.Spec
	for key, value := range spec.NodeSelector {
		if n.Labels[key] != value {
			return true
		}
	}
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		// The tolerations that DaemonSets add automatically have this prefix.
		return t.Effect != corev1.TaintEffectPreferNoSchedule && !strings.HasPrefix(t.Key, "node.kubernetes.io/") &&
			!slices.ContainsFunc(spec.Tolerations, func(o corev1.Toleration) bool { return tolerates(o, t) })
	})
}

func tolerates(o corev1.Toleration, t corev1.Taint) bool {
	return (o.Effect == "" || o.Effect == t.Effect) && (o.Key == "" || o.Key == t.Key) &&
		(o.Operator == corev1.TolerationOpExists || o.Value == t.Value)
}

// versions checks whether all nodes run one version of the driver.
func (d *driver) versions() {
	const title = "the driver's versions"
	if d.skipWithoutSet(title) {
		return
	}
	byImage := map[string]*some{}
	for i := range d.pods {
		p := &d.pods[i]
		container := cluster.DriverContainer(&p.Spec)
		if owner := metav1.GetControllerOf(p); container == nil || owner == nil || owner.UID != d.set.UID {
			continue
		}
		image := container.Image
		for _, s := range p.Status.ContainerStatuses {
			if s.Name == container.Name && s.ImageID != "" && strings.Contains(s.ImageID, "@") {
				image += s.ImageID[strings.LastIndexByte(s.ImageID, '@'):]
			}
		}
		if byImage[image] == nil {
			byImage[image] = &some{}
		}
		byImage[image].add(p.Spec.NodeName)
	}
	found := 0
	if len(byImage) > 1 {
		var parts []string
		for _, image := range sortedKeys(byImage) {
			parts = append(parts, fmt.Sprintf("%s on %s", image, byImage[image]))
		}
		found++
		d.add(finding.CodeMixedVersions, finding.Finding{Object: d.about(), Message: "its pods run " + strings.Join(parts, "; ")})
	}
	s := d.set.Status
	if s.UpdatedNumberScheduled < s.DesiredNumberScheduled && s.ObservedGeneration >= d.set.Generation {
		found++
		d.add(finding.CodeMixedVersions, finding.Finding{Object: d.about(), Message: fmt.Sprintf("%d of %s have its current template", s.UpdatedNumberScheduled, output.Plural(int(s.DesiredNumberScheduled), "pod"))})
	}
	d.recordCheck(title, found, listed(sortedKeys(byImage), 3))
}
