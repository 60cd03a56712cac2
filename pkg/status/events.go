package status

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// firstQuiet is how long the first repetition of an Event waits; it doubles with each.
	firstQuiet = time.Minute
	longQuiet  = time.Hour
	// forgetAfter is how long after its last failure a message is dropped.
	forgetAfter = 2 * time.Hour
	forgetEvery = time.Minute
	// goneFor is how long nothing is written for a volume or a class whose namespace
	// was gone. Its pod goes too; another namespace of the name may come.
	goneFor = 10 * time.Minute
	// maxMessage is the API server's limit for an Event's message.
	maxMessage = 1024
)

// How often Events are written for one volume, and for all volumes of one namespace, after a first
// few. The next Event counts those in between.
const (
	volumeEventsEvery    = 5 * time.Minute
	volumeEventsBurst    = 10
	namespaceEventsEvery = 5 * time.Second
	namespaceEventsBurst = 60
)

// message is one Event, which is updated when it repeats.
type message struct {
	volume     string
	event      *corev1.Event
	sent       *corev1.Event // as the API server returned it
	cause      string        // of the text
	quietUntil time.Time
	quiet      time.Duration
	lastSeen   time.Time
	// allowed is the count up to which the event may be written.
	allowed int32
	// waiting says that repetitions will be written after the pause.
	waiting bool
	// goneUntil is how long the namespace counts as gone; zero for one that is there.
	goneUntil time.Time
}

// events writes the Events.
type events struct {
	*Config
	queue queue

	mu       sync.Mutex
	messages map[string]*message
	// ofVolume and ofNamespace bound the writes.
	ofVolume, ofNamespace *buckets
	serial                uint64
	forgotten             time.Time // when old messages and buckets were last dropped
}

func (e *events) observe(o volume.Outcome) {
	if o.SetAside != "" {
		e.report(o, corev1.EventTypeWarning, names.RecordSetAside, setAsideWords(o))
	}
	if o.WarnPod {
		e.report(o, corev1.EventTypeWarning, names.ClassWarning, fmt.Sprintf("SecretProviderClass %s: %s", o.Class, strings.Join(o.Warnings, "; ")))
	}
	switch {
	case o.Kind == volume.Waiting:
		e.report(o, corev1.EventTypeWarning, names.StoreSlow, waitingWords(o))
	case o.Kind == volume.Published && o.Err != nil:
		e.report(o, corev1.EventTypeWarning, names.MountFailed, failedWords(o))
	case o.Kind == volume.Published && !o.AsOf.IsZero():
		e.report(o, corev1.EventTypeWarning, names.LastGoodUsed, fmt.Sprintf(
			"class %s: the store is unavailable; the pod starts with what this node read at %s, as the class's onUnavailable asks", o.Class, o.AsOf.UTC().Format(time.RFC3339)))
	case o.Kind == volume.Refreshed && o.Emptied:
		e.report(o, corev1.EventTypeWarning, names.RefreshFailed, fmt.Sprintf("%s: %s", o.Reason(), o.Err))
	case o.Kind == volume.Refreshed && o.Err != nil:
		e.report(o, corev1.EventTypeWarning, names.RefreshFailed,
			fmt.Sprintf("%s: the volume keeps its last good content: %s", o.Reason(), o.Err))
	case o.Kind == volume.Refreshed && o.Failures > 0:
		e.endEpisode(o)
		e.report(o, corev1.EventTypeNormal, names.Recovered, fmt.Sprintf("class %s: the volume is fresh again after %d failed refreshes", o.Class, o.Failures))
	case o.Kind == volume.Refreshed && o.Changed && e.RotatedEvents:
		e.report(o, corev1.EventTypeNormal, names.Rotated, fmt.Sprintf("class %s: new content was written", o.Class))
	case o.Kind == volume.Published:
		e.endEpisode(o)
	case o.Kind == volume.Unpublished:
		e.forgetVolume(o)
	}
}

// briefly bounds a MountFailed Event in bytes: kubelet's FailedMount beside it has the whole text.
const briefly = 300

// failedWords are the reason, and the hint or the error.
func failedWords(o volume.Outcome) string {
	text := o.Err.Error()
	if _, rest, ok := strings.Cut(text, "SecretProviderClass "+o.Class.String()+": "); ok {
		text = rest
	}
	if len(text) > briefly {
		text = fault.Cause(o.Err)
		if hint := fault.Hint(o.Err); hint != "" && !strings.Contains(text, hint) {
			text = Clip(text, briefly/2) + " (" + hint + ")"
		}
	}
	return fmt.Sprintf("%s: SecretProviderClass %s: %s", o.Reason(), o.Class, Clip(text, briefly))
}

func waitingWords(o volume.Outcome) string {
	store := "the store"
	if o.Store != "" {
		store = o.Store
	}
	return fmt.Sprintf("SecretProviderClass %s: %s has not answered for %s; the driver is still waiting, and kubelet retries if there is no answer", o.Class, store, o.Took)
}

// setAsideWords are for the node at the start, when the record's owner is unknown, and for the pod
// once kubelet has named its volume again.
func setAsideWords(o volume.Outcome) string {
	if o.Kind == volume.SetAside {
		return o.Err.Error() + "; at kubelet's next republish the driver reads the volume again"
	}
	return fmt.Sprintf("class %s: the driver's saved state of this volume could not be read and was set aside on the node as %s; "+
		"the driver reads it again, and credentials that only that record had expire at their TTL", o.Class, o.SetAside)
}

// Note is an Event that another part of the driver wants to write.
type Note struct {
	// Volume is the key of the rate limit. The Event is forgotten with that volume.
	Volume    string
	Namespace string
	About     corev1.ObjectReference
	// Type and Reason are the Event's.
	Type, Reason string
	// Topic distinguishes Events of one volume and reason: there is one Event for each, which is
	// updated when it repeats.
	Topic string
	Text  string

	// once says that it is not reported again: it is written after the pause if it comes too
	// early. Others are reported again by the next.
	once bool
	// counted says that an earlier Event of the topic keeps its text, and is only counted.
	counted bool
}

// Teller writes Events. A Reporter is one.
type Teller interface {
	Tell(n Note)
}

// TellPodAndClass writes an Event about the class of a volume on the volume's pod and on the class.
func TellPodAndClass(to Teller, f volume.Followed, kind, reason, topic, text string) {
	n := Note{Volume: f.Volume, Namespace: f.Pod.Namespace, About: PodReference(f.Pod), Type: kind, Reason: reason, Topic: topic, Text: text}
	to.Tell(n)
	n.Volume, n.Namespace, n.About = ClassKey(f.Class), f.Class.Namespace, ClassReference(f.Class)
	to.Tell(n)
}

// ClassKey is the Volume of a Note that is about a class and no single volume.
func ClassKey(c *class.Class) string { return "class " + c.String() }

// PodReference is a pod as the object of an Event.
func PodReference(p identity.Pod) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: uid(p.UID)}
}

// ClassReference is a class as the object of an Event.
func ClassReference(c *class.Class) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass", Namespace: c.Namespace, Name: c.Name, UID: uid(c.UID)}
}

// report writes an Event about an outcome.
func (e *events) report(o volume.Outcome, kind, reason, text string) {
	about, namespace := e.about(o)
	e.tell(Note{
		Volume: o.ID, Namespace: namespace, About: about, Type: kind, Reason: reason,
		Topic: string(o.Reason()), // the text may have a time or a request's id
		Text:  text,
		once:  o.Kind == volume.SetAside, counted: fault.NotAsked(o.Err),
	})
}

// tell writes an Event at once the first time, and then with growing pauses while it repeats.
func (e *events) tell(n Note) {
	now := time.Now()
	key := n.Volume + " " + n.Reason + " " + n.Topic
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.forgotten) > forgetEvery {
		e.forgotten = now
		e.forgetOld(now)
	}
	if e.isGone(n.Volume, now) {
		return
	}
	m, cause := e.messages[key], causeOf(n.Text)
	if m == nil {
		m = &message{volume: n.Volume, event: e.newEvent(n, now), quiet: firstQuiet / 2}
		e.messages[key] = m
	} else {
		m.event.Count++
		if n.counted {
			cause, n.Text = m.cause, m.event.Message
		}
		if m.cause != cause { // the Event's text is no longer true
			m.quiet, m.quietUntil = firstQuiet/2, time.Time{}
		}
	}
	m.cause = cause
	m.event.Message, m.event.LastTimestamp, m.lastSeen = clip(n.Text), metav1.NewTime(now), now
	t := task{writeEvent, m.event.Namespace, key}
	if wait := m.quietUntil.Sub(now); wait > 0 {
		if n.once && !m.waiting {
			m.waiting = true
			e.queue.AddAfter(t, wait)
		}
		return
	}
	m.startPause(now)
	e.queue.Add(t)
}

// isGone tells whether the namespace of a volume was found gone a short time ago. The caller
// holds the mutex.
func (e *events) isGone(volume string, now time.Time) bool {
	for _, m := range e.messages {
		if m.volume == volume && now.Before(m.goneUntil) {
			return true
		}
	}
	return false
}

// changing matches what may differ between two failures of one cause: ports, times, and the ids of
// requests.
var changing = regexp.MustCompile(`[0-9a-fA-F]{8}[0-9a-fA-F-]*|[0-9]+`)

func causeOf(text string) string { return changing.ReplaceAllString(text, "#") }

// startPause begins the pause in which repetitions wait.
func (m *message) startPause(now time.Time) {
	m.quiet = min(2*m.quiet, longQuiet)
	m.quietUntil, m.waiting = now.Add(m.quiet), false
}

// endEpisode makes the volume's next failure write an Event at once. If it has the same reason,
// that Event continues the count.
func (e *events) endEpisode(o volume.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.messages {
		if m.volume == o.ID {
			m.quiet, m.quietUntil = firstQuiet/2, time.Time{}
		}
	}
}

// forgetVolume drops what was written for a volume that is gone.
func (e *events) forgetVolume(o volume.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, m := range e.messages {
		if m.volume == o.ID && (m.sent != nil || !m.goneUntil.IsZero()) {
			delete(e.messages, key)
		}
	}
}

// forgetOld bounds the memory; the caller holds the mutex.
func (e *events) forgetOld(now time.Time) {
	for key, m := range e.messages {
		if now.Sub(m.lastSeen) > forgetAfter {
			delete(e.messages, key)
		}
	}
	e.ofVolume.forgetFull(now)
	e.ofNamespace.forgetFull(now)
}

func (e *events) newEvent(n Note, now time.Time) *corev1.Event {
	e.serial++
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: n.Namespace,
			Name:      suffixedName(n.About.Name, fmt.Sprintf("%s %s %d %d", n.Volume, n.Reason, now.UnixNano(), e.serial)),
		},
		InvolvedObject:      n.About,
		Type:                n.Type,
		Reason:              n.Reason,
		Count:               1,
		FirstTimestamp:      metav1.NewTime(now),
		Source:              corev1.EventSource{Component: names.EventComponent, Host: e.Node},
		ReportingController: e.Driver,
		ReportingInstance:   e.Node,
	}
}

// about returns the object of an Event, and the Event's namespace. A node's Events name it as those
// of kubelet do.
func (e *events) about(o volume.Outcome) (corev1.ObjectReference, string) {
	if o.Pod.Name == "" {
		return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.Node, UID: uid(e.Node)}, metav1.NamespaceDefault
	}
	return PodReference(o.Pod), o.Pod.Namespace
}

func (e *events) send(ctx context.Context, t task) error {
	m, event, sent := e.next(t)
	if event == nil {
		return nil
	}
	var got *corev1.Event
	var err error
	if sent != nil {
		event.ResourceVersion = sent.ResourceVersion
		got, err = e.API.UpdateEvent(ctx, event)
	}
	if sent == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		event.ResourceVersion = ""
		got, err = e.API.CreateEvent(ctx, event)
	}
	gone := namespaceGone(err)
	if err != nil && !gone {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if gone { // the pod is gone too
		m.goneUntil, m.waiting = time.Now().Add(goneFor), false
		return nil
	}
	m.sent = got
	return nil
}

// next returns what to write of a message now, and what was written last. It returns nothing
// if an earlier write included the repetitions, and if the volume or its namespace has too many
// Events: then the worker does the task later.
func (e *events) next(t task) (m *message, event, sent *corev1.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m = e.messages[t.key]
	now := time.Now()
	if m == nil || e.isGone(m.volume, now) {
		return nil, nil, nil
	}
	if m.waiting && !now.Before(m.quietUntil) {
		m.startPause(now)
	}
	if m.sent != nil && m.sent.Count == m.event.Count {
		return nil, nil, nil
	}
	// A retried write is allowed already.
	if m.allowed != m.event.Count {
		if d := take(now, e.ofVolume.get(m.volume), e.ofNamespace.get(t.namespace)); d > 0 {
			e.queue.AddAfter(t, d)
			return nil, nil, nil
		}
		m.allowed = m.event.Count
	}
	return m, m.event.DeepCopy(), m.sent
}

// namespaceGone reports whether a create was refused because the namespace is being deleted or is
// gone.
func namespaceGone(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// clip keeps a message within the API server's limit, and cuts it after a whole character.
func clip(text string) string { return Clip(text, maxMessage) }

// Clip cuts a text that is longer than limit bytes after a whole character.
func Clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const more = "..."
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

func uid(s string) types.UID { return types.UID(s) }
