package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

var missingSecret = regexp.MustCompile(`secret "([^"]+)" not found|in Secret ([^ ]+)`)

// podLinks are the links after the volumes.
type podLinks struct{ *walk }

// containersLink checks the containers, which start after the volumes are mounted.
func (w podLinks) containersLink() result {
	p := w.pod
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		wait, ended := s.State.Waiting, s.State.Terminated
		switch {
		case wait == nil && ended != nil && ended.ExitCode != 0:
			return bad(finding.CodeContainerFails, finding.Finding{Message: fmt.Sprintf("container %q ended with exit code %d: %s", s.Name, ended.ExitCode, ended.Reason)}, "%s has ended", s.Name)
		case wait == nil:
			continue
		case wait.Reason == "PodInitializing":
			continue // an init container has not ended, or there is no status yet
		case wait.Reason == "ContainerCreating":
			return w.creating(s.Name)
		}
		said := strings.TrimSuffix(wait.Reason+": "+wait.Message, ": ")
		f := finding.Finding{Message: fmt.Sprintf("container %q waits: %s", s.Name, said)}
		lower := strings.ToLower(said)
		switch m := missingSecret.FindStringSubmatch(wait.Message); {
		case m != nil:
			w.secretWanted(&f, m[1]+m[2])
			return bad(finding.CodeNoSecret, f, "%s waits for a Secret", s.Name)
		case strings.Contains(lower, "relabel"), strings.Contains(lower, "selinux"), strings.Contains(lower, "lsetxattr"):
			return bad(finding.CodeSELinux, f, "%s: %s", s.Name, wait.Reason)
		}
		return bad(finding.CodeContainerFails, f, "%s: %s", s.Name, wait.Reason)
	}
	if !isReady(p) && p.Status.Phase == corev1.PodRunning {
		return good("running, not ready yet")
	}
	return good("%s", strings.ToLower(string(p.Status.Phase)))
}

// creating is for containers that wait although the driver's volumes are mounted.
func (w podLinks) creating(container string) result {
	for i := range w.events.value {
		e := &w.events.value[i]
		m := ofVolume.FindStringSubmatch(e.Message)
		ours := m != nil && slices.ContainsFunc(w.volumes, func(v *volume) bool { return v.name == m[1] })
		if passed := w.passed(); e.Reason != failedMount || m == nil || ours || passed != nil && !timeOf(e).After(passed.Time) {
			continue
		}
		return bad(finding.CodeOtherVolume, finding.Finding{Message: fmt.Sprintf("volume %q, which is not a volume of this driver, cannot be mounted: %s", m[1], m[2])}, "%s waits for another volume", container)
	}
	return result{state: finding.Unknown, detail: container + " is being created"}
}

// secretWanted names the class that would make a missing Secret.
func (w podLinks) secretWanted(f *finding.Finding, name string) {
	for i := range w.classes.value {
		c := &w.classes.value[i]
		for _, o := range c.Spec.SecretObjects {
			if o.SecretName != name {
				continue
			}
			f.Message += fmt.Sprintf("; class %q lists it under secretObjects", c.Name)
			w.listed(f, name, c.Name)
			return
		}
	}
	f.Message += "; no class of the namespace lists it under secretObjects"
}

// listed says why the driver has not made a Secret that a class lists.
func (w podLinks) listed(f *finding.Finding, name, class string) {
	var refused *corev1.Event
	for i := range w.events.value {
		e := &w.events.value[i]
		if e.Reason == names.SecretNotWritten && e.Source.Component == names.EventComponent && strings.Contains(e.Message, fmt.Sprintf("Kubernetes Secret %q", name)) {
			refused = newer(refused, e)
		}
	}
	operator := operatorOf(w.driver.value)
	off := operator != nil && !operator.SyncSecrets
	mounted := slices.ContainsFunc(w.volumes, func(v *volume) bool { return v.class == class })
	if off && refused == nil {
		f.Message += ", and the driver of this node writes no Secrets"
	}
	if !mounted {
		f.Message += "; no volume of the pod mounts the class"
	}
	switch {
	case refused != nil:
		f.Message += "; the driver says: " + refused.Message
		f.Remedy = "do what the driver's message says: it tries again at the next refresh, and kubelet then starts the container"
	case off:
		f.Remedy = "read the file in the volume, or ask the operator to set the chart's syncSecret"
	case !mounted:
		f.Remedy = fmt.Sprintf("mount class %q in the pod, so that the driver writes the Secret before it starts", class)
	default:
		f.Message += "; the driver writes it before the pod's containers start"
		f.Remedy = "run the command again in a minute, because kubelet may see a new Secret late; if nothing changed, read the driver's log on this node"
	}
}

// odd reports what else is probably not intended.
func (w podLinks) odd() {
	classes := map[string]bool{}
	for _, v := range w.volumes {
		classes[v.class] = true
	}
	told := ""
	for _, f := range w.linted.Findings {
		ours := f.Object.Kind == "Pod" || f.Object.Kind == "SecretProviderClass" && classes[f.Object.Name]
		if !ours || f.Level == finding.Error || f.Code == finding.CodePlugin || f.Code == finding.CodeClassNotGiven {
			continue
		}
		if f.Code == finding.CodeWithoutData && w.fresh(f.Object.Name) {
			continue // the store has answered, and it is no KV engine of version 2
		}
		told += f.Message + "\n"
		w.report.Add(f.Code, f)
	}
	for _, f := range w.findings("Pod", w.pod.Name, finding.CodeMountsCollide) {
		w.report.Add(f.Code, f)
	}
	for _, v := range w.volumes {
		w.oddStatus(v, told)
	}
	w.oddEvents()
}

// fresh reports whether the volume of a class was read without a failure.
func (w podLinks) fresh(class string) bool {
	return slices.ContainsFunc(w.volumes, func(v *volume) bool { return v.class == class && v.isReady() && v.trouble == nil })
}

// oddStatus reports what the volume's status says besides its failure. told is what lint has
// reported already.
func (w podLinks) oddStatus(v *volume, told string) {
	if v.status == nil {
		return
	}
	pod := about("Pod", w.pod.Namespace, w.pod.Name)
	if c := condition(v.status, names.Ready); c != nil && c.Status == metav1.ConditionFalse && w.passed() != nil {
		w.report.Add(finding.CodeVolumeEmptied, finding.Finding{Object: pod, Message: fmt.Sprintf("volume %q no longer has files: %s", v.name, c.Message)})
	}
	if c := condition(v.status, names.Fresh); c != nil && c.Reason == names.LastGoodUsed {
		w.report.Add(finding.CodeLastGood, finding.Finding{Object: pod, Message: fmt.Sprintf("volume %q: %s", v.name, c.Message)})
	}
	c := condition(v.status, names.ClassValid)
	if c == nil || c.Status != metav1.ConditionFalse {
		return
	}
	var more []string
	for _, said := range strings.Split(c.Message, "; ") {
		if !strings.Contains(told, said) && !strings.HasPrefix(said, "volumeAttributes [") {
			more = append(more, said)
		}
	}
	if len(more) > 0 {
		w.report.Add(finding.CodeIgnoredField, finding.Finding{Object: pod, Message: fmt.Sprintf("volume %q of class %s: %s", v.name, v.class, strings.Join(more, "; "))})
	}
}

// oddEvents reports those of other controllers about the volumes.
func (w podLinks) oddEvents() {
	for i := range w.events.value {
		e := &w.events.value[i]
		if strings.HasPrefix(e.Reason, "SELinux") || e.Reason == "MultipleSELinuxLabels" {
			w.report.Add(finding.CodeSELinux, finding.Finding{
				Level: finding.Warning, Object: about("Pod", w.pod.Namespace, w.pod.Name), Message: e.Reason + ": " + e.Message,
			})
		}
	}
}
