package explain

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// trouble is the last reported failure of a volume.
type trouble struct {
	row   *advice
	words string
	// last is when it was last reported, since is when it began; both may be zero.
	last, since time.Time
}

// failedMount is kubelet's Event.
const failedMount = "FailedMount"

var (
	ofVolume = regexp.MustCompile(`(?s)^(?:\(combined from similar events\): )?MountVolume\.\S+ failed for volume "([^"]*)" : (.*)$`)
	grpcCode = regexp.MustCompile(`^rpc error: code = \w+ desc = `)
	objects  = regexp.MustCompile(`^failed to mount secrets store objects for pod [^ :,]+(?:, err)?: `)
	reading  = regexp.MustCompile(`\breading "([^"]+)"|\bitem (/[^ ,:]+)|"([^"]+)" has no key`)
	mustBe   = regexp.MustCompile(`secretPath must be ("[^"]+")`)
)

// isReady reports whether the driver says that the volume has its payload.
func (v *volume) isReady() bool {
	if v.status == nil {
		return false
	}
	c := condition(v.status, names.Ready)
	return c != nil && c.Status == metav1.ConditionTrue || c == nil && v.status.Status.Mounted
}

// isPlugin reports whether the class's provider is a plugin.
func (v *volume) isPlugin() bool {
	return v.spc != nil && !slices.Contains(builtIn(), v.spc.Spec.Provider)
}

func builtIn() []string { return []string{vault.NameVault, vault.NameOpenBao, akeyless.Name} }

// troubles finds the last failures.
type troubles struct{ *walk }

// troubleOf finds the last failure of a volume that still applies: in its status, which has it as
// long as it applies, and else in the Events. A later failure of kubelet comes first, because
// kubelet did not call the driver then.
func (w troubles) troubleOf(v *volume) *trouble {
	told := w.inStatus(v)
	event := w.inEvents(v)
	live, over := w.inLive(v)
	if over {
		return nil // the driver writes the status a moment later
	}
	if live != nil {
		if told != nil {
			live.since = told.since
		}
		told = live
	}
	switch {
	case event == nil || !w.holds(v, event):
		return told
	case told == nil:
		return event
	case event.row.kubelet && event.row.code != finding.CodeNoReason && event.last.After(later(told.since, told.last)):
		return event
	}
	told.last = later(told.last, event.last)
	return told
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// inStatus is the failure in the volume's status.
func (w troubles) inStatus(v *volume) *trouble {
	if v.status == nil {
		return nil
	}
	c := condition(v.status, names.Fresh)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason == names.LastGoodUsed {
		return nil
	}
	t := &trouble{row: adviceFor(false, fault.Reason(c.Reason), c.Message, v.isPlugin()), words: c.Message, since: c.LastTransitionTime.Time}
	if since, err := time.Parse(time.RFC3339, v.status.Annotations[names.SinceAnnotation]); err == nil {
		t.since = since
	}
	return t
}

// holds reports whether an Event may still apply: the volume has not been mounted since.
func (w troubles) holds(v *volume, t *trouble) bool {
	if t == nil {
		return false
	}
	if passed := w.passed(); passed != nil && !t.last.After(passed.Time) {
		return false
	}
	if v.isReady() {
		c := condition(v.status, names.Ready)
		return c != nil && t.last.After(c.LastTransitionTime.Time)
	}
	return true
}

// inEvents is the newest failure of the volume among the Events: kubelet's, which has the whole
// text, with the reason of the driver's.
func (w troubles) inEvents(v *volume) *trouble {
	var kubelet, driver, recovered *corev1.Event
	for i := range w.events.value {
		e := &w.events.value[i]
		switch {
		case e.Reason == failedMount && w.volumeOf(e) == v.name:
			kubelet = newer(kubelet, e)
		case e.Source.Component != names.EventComponent || !w.isAbout(e, v):
		case e.Reason == names.MountFailed, e.Reason == names.RefreshFailed:
			driver = newer(driver, e)
		case e.Reason == names.Recovered:
			recovered = newer(recovered, e)
		}
	}
	// Events have seconds. Of a failure and a recovery in one second, the recovery is the later:
	// a refresh that succeeded is not repeated within a second.
	if driver != nil && recovered != nil && !timeOf(recovered).Before(timeOf(driver)) {
		driver = nil
	}
	var reason fault.Reason
	var words string
	if driver != nil {
		first, rest, _ := strings.Cut(driver.Message, ": ")
		reason, words = fault.Reason(first), rest
	}
	if kubelet == nil && driver == nil {
		return nil
	}
	t := &trouble{}
	if kubelet != nil {
		t.last, t.since = timeOf(kubelet), kubelet.FirstTimestamp.Time
		var own bool
		if t.words, own = wordsOf(kubelet); own {
			t.row = adviceFor(true, "", t.words, v.isPlugin())
			return t
		}
	}
	if driver != nil && (kubelet == nil || driver.Reason == names.RefreshFailed && timeOf(driver).After(t.last)) {
		t.words, t.last, t.since = words, timeOf(driver), driver.FirstTimestamp.Time
	}
	t.row = adviceFor(false, reason, t.words, v.isPlugin())
	return t
}

// volumeOf is the volume that an Event of kubelet names. An Event that names none applies to all.
func (w troubles) volumeOf(e *corev1.Event) string {
	if m := ofVolume.FindStringSubmatch(e.Message); m != nil {
		return m[1]
	}
	for _, v := range w.volumes {
		if strings.Contains(e.Message, v.name) {
			return v.name
		}
	}
	return ""
}

// isAbout reports whether an Event of the driver is about a volume.
func (w *walk) isAbout(e *corev1.Event, v *volume) bool {
	return len(w.volumes) == 1 || strings.Contains(e.Message, w.pod.Namespace+"/"+v.class)
}

// wordsOf are an Event's text without its prefixes, and whether it is kubelet's own: the driver's
// text arrives by gRPC.
func wordsOf(e *corev1.Event) (words string, own bool) {
	words = e.Message
	if m := ofVolume.FindStringSubmatch(words); m != nil {
		words = m[2]
	}
	own = !grpcCode.MatchString(words)
	return objects.ReplaceAllString(grpcCode.ReplaceAllString(words, ""), ""), own
}

func newer(a, b *corev1.Event) *corev1.Event {
	if a == nil || timeOf(b).After(timeOf(a)) {
		return b
	}
	return a
}

// timeOf is when an Event last occurred, in either API of Events.
func timeOf(e *corev1.Event) time.Time {
	switch {
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// broke is the broken link of a volume's failure.
func (w *walk) broke(v *volume) result {
	t := v.trouble
	what := "cannot be mounted"
	level := finding.Error
	switch {
	case w.passed() != nil && v.status != nil && !v.isReady():
		what = "has been emptied"
	case w.isMounted(v):
		what, level = "keeps its content, and is not refreshed", finding.Warning
	}
	when := ""
	if !t.since.IsZero() {
		when = " for " + duration.HumanDuration(w.now.Sub(t.since))
	}
	if !t.last.IsZero() {
		when += ", last try " + w.ago(t.last)
	}
	f := finding.Finding{
		Level:   level,
		Message: fmt.Sprintf("volume %q %s%s: %s", v.name, what, when, t.words),
		Remedy:  w.fill(v, t),
	}
	return bad(t.row.code, f, "%s", finding.RuleOf(t.row.code).Title)
}

// fill fills the names into a remedy.
func (w *walk) fill(v *volume, t *trouble) string {
	remedy := t.row.remedy
	provider := ""
	if v.spc != nil {
		provider = v.spc.Spec.Provider
	}
	if provider == akeyless.Name {
		remedy = cmp.Or(t.row.akeyless, remedy)
	}
	l := v.login
	program, in := "vault", ""
	if provider == vault.NameOpenBao {
		program = "bao"
	}
	if l.Namespace != "" {
		in = " -namespace=" + shell(l.Namespace)
	}
	path, fixed := "PATH", `"MOUNT/data/PATH"`
	if m := reading.FindStringSubmatch(t.words); m != nil {
		path = m[1] + m[2] + m[3]
	}
	if m := mustBe.FindStringSubmatch(t.words); m != nil {
		fixed = m[1]
	}
	driverPod := "POD"
	if w.driver.value != nil {
		driverPod = w.driver.value.Name
	}
	driverNamespace := w.namespace
	if !w.csiDriver.known() {
		driverNamespace = "NAMESPACE"
	}
	address, origin := w.origin(v)
	return strings.NewReplacer(
		"{vault}", program, "{in}", in, "{fixed}", fixed, "{path}", shell(path), "{rule}", fmt.Sprintf("path %q { capabilities = [\"read\"] }", path),
		"{role}", shell(cmp.Or(l.Role, "ROLE")), "{mount}", shell(cmp.Or(l.Mount, "kubernetes")), "{audience}", shell(cmp.Or(l.Audience, "AUDIENCE")),
		"{accessid}", shell(cmp.Or(l.AccessID, "ID")), "{address}", shell(address), "{origin}", origin,
		"{account}", shell(accountOf(w.pod)), "{namespace}", shell(w.pod.Namespace), "{class}", shell(v.class), "{node}", shell(w.pod.Spec.NodeName),
		"{drivernamespace}", shell(driverNamespace), "{driverpod}", shell(driverPod),
	).Replace(remedy)
}

// origin is the store's address, and where it is set.
func (w *walk) origin(v *volume) (address, by string) {
	if v.login.Address == "" {
		return "ADDRESS", "the operator's"
	}
	for _, name := range []string{"vaultAddress", "baoAddress", "openbaoAddress", "akeylessGatewayURL"} {
		if v.spc != nil && v.spc.Spec.Parameters[name] != "" {
			return v.login.Address, "spec.parameters." + name + " of the class"
		}
	}
	return v.login.Address, "the operator's, by the driver's flags"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shell quotes untrusted text for a command line.
func shell(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
