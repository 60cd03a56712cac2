package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/setting"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// volumeLinks are the links of each volume.
type volumeLinks struct{ *walk }

func (w volumeLinks) volumeLink(_ context.Context, v *volume) result {
	for _, f := range w.findings("Pod", w.pod.Name, finding.CodeNotReadOnly, finding.CodeNoClass) {
		if strings.Contains(f.Message, fmt.Sprintf("volume %q", v.name)) {
			return bad(f.Code, f, "%s", finding.RuleOf(f.Code).Title)
		}
	}
	if !w.isUsed(v) {
		f := finding.Finding{Level: finding.Warning, Message: fmt.Sprintf("volume %q is in the pod, but no container mounts it, and kubelet skips such a volume", v.name)}
		return bad(finding.CodeVolumeUnused, f, "no container mounts %q", v.name)
	}
	return good("%q of class %s", v.name, v.class)
}

// isUsed reports whether a container mounts a volume.
func (w volumeLinks) isUsed(v *volume) bool {
	mounts := func(m corev1.VolumeMount) bool { return m.Name == v.name }
	for _, c := range slices.Concat(w.pod.Spec.InitContainers, w.pod.Spec.Containers) {
		if slices.ContainsFunc(c.VolumeMounts, mounts) {
			return true
		}
	}
	return slices.ContainsFunc(w.pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return slices.ContainsFunc(c.VolumeMounts, mounts) })
}

func (w volumeLinks) classLink(ctx context.Context, v *volume) result {
	o := about("SecretProviderClass", w.pod.Namespace, v.class)
	if !w.classes.known() {
		return w.unknown(o, w.classes.err)
	}
	if v.spc == nil {
		return w.noClass(ctx, v)
	}
	if found := w.findings(o.Kind, o.Name, finding.CodeRefused); len(found) > 0 {
		f := finding.Finding{Object: o, Message: joined(found), Remedy: found[0].Remedy}
		return bad(finding.CodeRefused, f, "the driver refuses %s", o.Name)
	}
	return good("%s/%s of provider %s", o.Namespace, o.Name, v.spc.Spec.Provider)
}

// noClass looks for the intended class: one with a near name, or one with the same name in another
// namespace.
func (w volumeLinks) noClass(ctx context.Context, v *volume) result {
	var near, elsewhere []string
	for i := range w.classes.value {
		near = append(near, w.classes.value[i].Name)
	}
	detail := "there is no " + w.pod.Namespace + "/" + v.class
	f := finding.Finding{Message: fmt.Sprintf("volume %q names the class %q, which is not in namespace %s", v.name, v.class, w.pod.Namespace)}
	if like := class.Near(v.class, near); like != "" {
		f.Remedy = fmt.Sprintf("did you mean %q?", like)
		return bad(finding.CodeNoSuchClass, f, "%s", detail)
	}
	if all, err := w.Classes(ctx, ""); err == nil { // few people may list them
		for i := range all {
			if all[i].Name == v.class {
				elsewhere = append(elsewhere, all[i].Namespace)
			}
		}
	}
	if len(elsewhere) == 0 {
		return bad(finding.CodeNoSuchClass, f, "%s", detail)
	}
	slices.Sort(elsewhere)
	f.Message += fmt.Sprintf(", but in %s, and a pod can use only classes of its own namespace", strings.Join(elsewhere, ", "))
	f.Remedy = fmt.Sprintf("put the class into namespace %s too", w.pod.Namespace)
	return bad(finding.CodeOtherNamespace, f, "%s", detail)
}

func (w volumeLinks) providerLink(_ context.Context, v *volume) result {
	switch {
	case v.spc == nil:
		return skipped("the class could not be read")
	case !v.isPlugin():
		return good("%s is built in", v.spc.Spec.Provider)
	}
	name := v.spc.Spec.Provider
	f := finding.Finding{
		Object:  about("SecretProviderClass", w.pod.Namespace, v.class),
		Message: fmt.Sprintf("has provider %q, which is not one of %s, and provider plugins are disabled on the node", name, quoted(builtIn())),
		Remedy:  "correct spec.provider of the class, or ask the operator to set " + setting.Name("--provider-volume"),
	}
	if like := class.Near(name, builtIn()); like != "" {
		f.Remedy = fmt.Sprintf("did you mean %q?", like)
	}
	if w.flags != nil && w.flags["provider-volume"] == "" {
		return bad(finding.CodeNoProvider, f, "%s is not on the node", name)
	}
	return result{state: finding.Unknown, detail: name + " is a plugin, which answers only on the node"}
}

func (w volumeLinks) accountLink(context.Context, *volume) result {
	o := about("ServiceAccount", w.pod.Namespace, accountOf(w.pod))
	switch {
	case !w.account.known():
		return w.unknown(o, w.account.err)
	case w.account.value == nil:
		return bad(finding.CodeNoAccount, finding.Finding{
			Object: o, Message: "does not exist, so kubelet gets no token for the pod",
			Remedy: fmt.Sprintf("kubectl create serviceaccount %s -n %s, or correct serviceAccountName in the pod", shell(o.Name), shell(o.Namespace)),
		}, "there is no %s/%s", o.Namespace, o.Name)
	}
	return good("%s/%s", o.Namespace, o.Name)
}

func (w volumeLinks) audienceLink(_ context.Context, v *volume) result {
	switch found := w.findings("SecretProviderClass", v.class, finding.CodeAudience); {
	case len(found) > 0:
		return bad(finding.CodeAudience, found[0], "the CSIDriver does not request %q", v.login.Audience)
	case v.login.Audience == "":
		return skipped("the class does not name one")
	case w.csiDriver.value == nil:
		return result{state: finding.Unknown, detail: fmt.Sprintf("%q, and the CSIDriver could not be read", v.login.Audience)}
	}
	return good("%q is requested by the CSIDriver", v.login.Audience)
}

// storeLink says how the driver reaches the store, and whether it answered.
func (w volumeLinks) storeLink(_ context.Context, v *volume) result {
	where := w.way(v)
	switch {
	case v.trouble != nil && v.trouble.row.link == linkStore:
		return result{state: finding.Unknown} // asTold decides
	case v.past:
		f := finding.Finding{Level: finding.Warning, Message: fmt.Sprintf("volume %q could not be mounted, but the cause seems to be corrected since: %s", v.name, v.trouble.words)}
		if v.trouble.row.link == linkRegistration {
			f.Remedy = "wait: kubelet tries again within 2m2s. The chart's startupTaint keeps pods from new nodes until the driver is ready"
		}
		return bad(finding.CodePastFailure, f, "not tried again yet")
	case v.trouble != nil:
		return good("%s", strings.TrimSuffix(where, ", "))
	case v.isReady():
		return good("%sthe last refresh succeeded", where)
	case w.passed() != nil && v.status == nil:
		return result{state: finding.Unknown, detail: strings.TrimSuffix(where, ", ")}
	case v.status != nil:
		return good("%sthe last refresh succeeded", where)
	}
	for i := range w.events.value {
		if e := &w.events.value[i]; e.Reason == names.StoreSlow && w.isAbout(e, v) {
			return bad(finding.CodeUnreachable, finding.Finding{
				Message: fmt.Sprintf("volume %q has waited for its store for %s: %s", v.name, duration.HumanDuration(w.now.Sub(e.FirstTimestamp.Time)), e.Message),
				Remedy:  w.fill(v, &trouble{row: &advice{remedy: unreachable}}),
			}, "has not answered")
		}
	}
	f := finding.Finding{Message: fmt.Sprintf("volume %q is not mounted, and no status or Event says why: kubelet may not have tried yet, or its Events have expired", v.name)}
	if !w.events.known() && w.events.asked {
		w.unknown(about("Event", w.pod.Namespace, w.pod.Name), w.events.err)
	}
	if !w.statuses.known() {
		w.unknown(about("SecretProviderClassPodStatus", w.pod.Namespace, "*"), w.statuses.err)
	}
	return bad(finding.CodeNoReason, f, "no answer is known")
}

// way describes which store the driver asks, as which account, and where that is set.
func (w volumeLinks) way(v *volume) string {
	if !v.login.Built {
		return ""
	}
	address, origin := w.origin(v)
	text := fmt.Sprintf("%s (%s), ", address, origin)
	if v.login.Address == "" {
		text = "the operator's address, "
	}
	if v.login.Fallback != "" {
		text += fmt.Sprintf("or %s while that is away, ", v.login.Fallback)
	}
	if v.login.Namespace != "" {
		text += "namespace " + v.login.Namespace + ", "
	}
	if v.login.Role != "" {
		text += fmt.Sprintf("auth/%s as role %s, ", v.login.Mount, v.login.Role)
	}
	return text
}

func (w volumeLinks) filesLink(_ context.Context, v *volume) result {
	if v.status == nil {
		if !w.statuses.known() {
			return w.unknown(about("SecretProviderClassPodStatus", w.pod.Namespace, "*"), w.statuses.err)
		}
		w.report.Add(finding.CodeNoStatus, finding.Finding{
			Object:  about("Pod", w.pod.Namespace, w.pod.Name),
			Message: fmt.Sprintf("volume %q is mounted, but has no SecretProviderClassPodStatus", v.name),
		})
		return result{state: finding.Unknown, detail: "they have no status"}
	}
	n := len(v.status.Status.Objects)
	if n == 1 {
		return good("1 object")
	}
	return good("%d objects", n)
}
