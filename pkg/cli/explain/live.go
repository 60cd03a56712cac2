package explain

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/nodes"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// livePatience bounds the wait for the driver, whose answer only adds to what the objects say.
const livePatience = 3 * time.Second

// readLive asks the driver on the node about the pod's volumes. Few users may forward a port to it.
func (l *look) readLive(ctx context.Context) {
	p := l.driver.value
	if p == nil || !isReady(p) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, livePatience)
	defer cancel()
	n := nodes.Of(l.Client, []corev1.Pod{*p})
	defer n.Close()
	l.live.set(n.Status(ctx, p.Spec.NodeName, nodes.Query{Namespace: l.pod.Namespace, Pod: l.pod.Name}))
}

// liveOf is the driver's state of a volume, and the last failure of its first mount; both are nil
// if it knows nothing about it.
func (l *look) liveOf(class string) (v *statusz.Volume, f *statusz.Failure) {
	for i := range l.live.value.Volumes {
		if one := &l.live.value.Volumes[i]; one.PodUID == string(l.pod.UID) && one.Class == class {
			v = one
		}
	}
	for i := range l.live.value.Failures {
		one := &l.live.value.Failures[i]
		if one.PodUID == string(l.pod.UID) && one.Class == class && (f == nil || one.At.After(f.At)) {
			f = one
		}
	}
	return v, f
}

// liveLink checks the driver's own state and the volume's.
func (w volumeLinks) liveLink(_ context.Context, v *volume) result {
	p := w.driver.value
	switch {
	case p == nil:
		return skipped("the driver's pod could not be read")
	case errors.Is(w.live.err, nodes.ErrOff):
		return skipped("switched off by --status-address (chart: status.address)")
	case !w.live.known():
		return w.unknown(about("Pod", p.Namespace, p.Name), w.live.err)
	}
	if node := w.live.value.Node; node != nil && node.NotReady != "" {
		return bad(finding.CodeDriverNotReady, finding.Finding{
			Object: about("Pod", p.Namespace, p.Name), Message: "does not serve kubelet: " + node.NotReady, Remedy: w.fill(v, &trouble{row: &advice{remedy: readLog}}),
		}, "not ready")
	}
	one, failed := w.liveOf(v.class)
	switch {
	case one != nil:
		return good("%s", w.liveWords(one))
	case failed != nil:
		return good("kubelet asked %s, and it failed %s", w.ago(failed.At), failed.Reason)
	}
	return good("kubelet has not asked for the volume within the last hour")
}

// liveWords describe the state of a volume, by the node's own clock.
func (w volumeLinks) liveWords(v *statusz.Volume) string {
	now := w.live.value.Now
	text := v.State
	if !v.RefreshedAt.IsZero() {
		text += ", read " + duration.HumanDuration(now.Sub(v.RefreshedAt)) + " ago"
	}
	if !v.NextAt.IsZero() {
		text += ", next refresh in " + duration.HumanDuration(max(v.NextAt.Sub(now), 0))
	}
	if !v.ExpiresAt.IsZero() {
		text += ", its credential expires in " + duration.HumanDuration(max(v.ExpiresAt.Sub(now), 0)) + " unless it is renewed"
	}
	for _, s := range w.live.value.Stores {
		for _, c := range s.Circuits {
			if s.Provider+" "+s.Address == v.Store || s.Address == v.Store {
				return fmt.Sprintf("%s; after %d failures in a row the driver tries %s again in %s", text, c.Failures, s.Address, duration.HumanDuration(max(c.ProbeAt.Sub(now), 0)))
			}
		}
	}
	return text
}

// inLive is the volume's failure in the driver's answer, which is newer than what it has written to
// objects. over says that there is none.
func (w troubles) inLive(v *volume) (t *trouble, over bool) {
	if !w.live.known() {
		return nil, false
	}
	one, failed := w.liveOf(v.class)
	if one != nil {
		failed = one.Failure
		over = one.State == statusz.Fresh
	}
	if failed == nil || one == nil && w.passed() != nil {
		return nil, over
	}
	return &trouble{row: adviceFor(false, fault.Reason(failed.Reason), failed.Message, v.isPlugin()), words: failed.Message, last: failed.At}, over
}
