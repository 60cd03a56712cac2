package status

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// updateEvery is how often one volume's status is written after the first updateBurst writes: a
	// failure and the recovery from it show at once, and a volume that fails and recovers all the
	// time does not fill etcd.
	updateEvery = time.Minute
	updateBurst = 3
	// versionsEvery is the shortest time between two updates with nothing but new versions.
	versionsEvery = time.Minute
	// recoverSpread is the time over which a new process reads the statuses of the volumes that it
	// recovered. A whole fleet may restart at once.
	recoverSpread = time.Minute
)

// volumeState is the wanted status of a volume, and the written one.
type volumeState struct {
	want *v1.SecretProviderClassPodStatus
	// gone says that the object must be deleted.
	gone bool
	have *v1.SecretProviderClassPodStatus // as the API server returned it; nil if unknown
	// look says that there may be an object although have is nil.
	look bool
	// suffixed says that another volume has the plain name.
	suffixed bool

	// sent is what was wanted when a write was last allowed; nil before the first.
	sent       *v1.SecretProviderClassPodStatus
	versionsAt time.Time // of the last update with new versions
	updates    *rate.Limiter
	// live says that the volume has had a payload. Kubelet does not unpublish other volumes, so
	// their states are dropped some time after their last outcome.
	live bool
	seen time.Time
}

func newVolumeState() *volumeState {
	return &volumeState{updates: rate.NewLimiter(rate.Every(updateEvery), updateBurst)}
}

// statuses writes the SecretProviderClassPodStatuses.
type statuses struct {
	*Config
	queue queue

	mu      sync.Mutex
	volumes map[string]*volumeState
}

func (s *statuses) observe(o volume.Outcome) {
	objects := objectsOf(o.Versions)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetOld(time.Now())
	st := s.volumes[o.ID]
	t := task{writeStatus, o.Pod.Namespace, o.ID}
	switch o.Kind {
	case volume.Published, volume.Recovered:
		if o.Kind == volume.Recovered && o.Err != nil {
			return // nothing is mounted
		}
		if st == nil {
			st = newVolumeState()
			s.volumes[o.ID] = st
		}
		want := s.desired(o, objects, st.want)
		st.seen, st.live = time.Now(), st.live || want.Status.Mounted
		if st.want != nil && !st.gone && equal(want, st.want) { // kubelet retried, and the failure is the same
			return
		}
		st.want, st.gone = want, false
		if o.Kind == volume.Recovered { // an earlier process has written it
			st.look = true
			s.queue.AddAfter(t, rand.N(recoverSpread))
			return
		}
	case volume.Refreshed:
		if st == nil || st.gone {
			return
		}
		want := s.desired(o, objects, st.want)
		if equal(want, st.want) {
			return
		}
		st.want = want
	case volume.Unpublished:
		if st == nil || o.Err != nil {
			return
		}
		st.gone = true
	default:
		return
	}
	s.queue.Add(t)
}

// wait returns how long the wanted status must not be written yet. Zero allows one write of it,
// with its retries. The first write, and one that was allowed before, never wait.
func (st *volumeState) wait(now time.Time) time.Duration {
	if st.sent == nil || equal(st.want, st.sent) {
		st.sent = st.want
		return 0
	}
	if d := st.versionsAt.Add(versionsEvery).Sub(now); d > 0 && sameConditions(st.want, st.sent) {
		return d
	}
	if d := take(now, st.updates); d > 0 {
		return d
	}
	st.sent, st.versionsAt = st.want, now
	return 0
}

// sync makes the API server's object what is wanted. It needs one request if the object is as
// expected, and does it later if the volume's status was written a moment ago.
func (s *statuses) sync(ctx context.Context, t task) error {
	s.mu.Lock()
	st := s.volumes[t.key]
	if st == nil {
		s.mu.Unlock()
		return nil
	}
	if !st.gone {
		if d := st.wait(time.Now()); d > 0 {
			s.mu.Unlock()
			s.queue.AddAfter(t, d)
			return nil
		}
	}
	was := *st
	s.mu.Unlock()
	if was.suffixed {
		was.want = withSuffix(was.want, t.key)
	}
	var got *v1.SecretProviderClassPodStatus
	var err error
	if was.gone {
		err = s.remove(ctx, was)
	} else {
		got, err = s.write(ctx, was)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, errTaken) && !was.suffixed {
		st.suffixed = true
		s.queue.Add(t)
		return nil
	}
	// The next attempt after an error reads first: the request may have succeeded.
	st.have, st.look = slim(got, was.want), err != nil
	switch {
	case !was.gone && was.have == nil && namespaceGone(err): // and the pod with it
		delete(s.volumes, t.key)
		return nil
	case was.gone && err == nil && st.gone:
		delete(s.volumes, t.key)
	case was.gone && err == nil: // and published again meanwhile
		s.queue.Add(t)
	}
	return err
}

// slim drops from the API server's answer what takes memory and no later request needs, and shares
// what is equal. An update without managedFields leaves them as they are.
func slim(have, want *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	if have == nil {
		return nil
	}
	have.ManagedFields = nil
	if slices.Equal(have.Status.Objects, want.Status.Objects) {
		have.Status.Objects = want.Status.Objects
	}
	return have
}

// errTaken asks for a name with a suffix.
var errTaken = errors.New("the name belongs to another volume")

// find returns the volume's object, nil if there is none.
func (s *statuses) find(ctx context.Context, want *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	have, err := s.API.GetStatus(ctx, want.Namespace, want.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case !sameVolume(want, have):
		return nil, errTaken
	}
	return have, nil
}

func (s *statuses) write(ctx context.Context, st volumeState) (*v1.SecretProviderClassPodStatus, error) {
	have := st.have
	if have == nil && st.look {
		var err error
		if have, err = s.find(ctx, st.want); err != nil {
			return nil, err
		}
	}
	if have == nil {
		made, err := s.API.CreateStatus(ctx, st.want)
		if st.look || !apierrors.IsAlreadyExists(err) {
			return made, err
		}
		if have, err = s.find(ctx, st.want); err != nil {
			return nil, err
		}
		if have == nil {
			return nil, errMoved
		}
	}
	want := withWarningsOf(st.want, have)
	if equal(want, have) {
		return have, nil
	}
	return s.API.UpdateStatus(ctx, merged(want, have))
}

// errMoved says that an object was deleted between two requests.
var errMoved = errors.New("the object is changing")

func (s *statuses) remove(ctx context.Context, st volumeState) error {
	have := st.have
	if have == nil && st.look {
		var err error
		if have, err = s.find(ctx, st.want); err != nil {
			return err
		}
	}
	if have == nil || have.OwnerReferences == nil || have.OwnerReferences[0].UID != st.want.OwnerReferences[0].UID {
		return nil // it belongs to another pod of that name
	}
	return s.delete(ctx, have)
}

// delete succeeds if the object is gone or was created again.
func (s *statuses) delete(ctx context.Context, have *v1.SecretProviderClassPodStatus) error {
	err := s.API.DeleteStatus(ctx, have)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// forgetOld bounds the memory; the caller holds the mutex.
func (s *statuses) forgetOld(now time.Time) {
	for id, st := range s.volumes {
		if !st.live && !st.gone && now.Sub(st.seen) > forgetAfter {
			delete(s.volumes, id) // the pod owns the object, so Kubernetes deletes both
		}
	}
}

// For a list of one node's statuses the API server goes through those of all nodes. So a process
// lists them once, and a fleet that starts at once spreads its lists over an hour.
const (
	orphansAfter  = 5 * time.Minute
	orphansSpread = time.Hour
)

// removeOrphans deletes the statuses that this driver wrote on this node for volumes that are gone.
// They are left over when a process ends between an unpublish and the delete while the pod lives
// on. Kubernetes deletes those of gone pods.
func (s *statuses) removeOrphans(ctx context.Context) {
	select {
	case <-time.After(orphansAfter + rand.N(orphansSpread)):
	case <-ctx.Done():
		return
	}
	found, err := s.API.ListStatuses(ctx, nodeLabel(s.Node))
	if err != nil {
		s.Logger.Warn("listing this node's SecretProviderClassPodStatuses failed; those of removed volumes are deleted with their pods", logkey.Error, err)
		return
	}
	known := s.knownNames()
	for i := range found {
		have := &found[i]
		if have.Labels[names.DriverLabel] != s.Driver || have.Annotations[names.NodeAnnotation] != nodeAnnotation(s.Node) || known[nameOf(have)] {
			continue
		}
		if err := s.delete(ctx, have); err != nil {
			s.Logger.Warn("deleting the SecretProviderClassPodStatus of a removed volume failed", logkey.Namespace, have.Namespace, logkey.Name, have.Name, logkey.Error, err)
		}
	}
}

type objectName struct{ namespace, name string }

func nameOf(s *v1.SecretProviderClassPodStatus) objectName { return objectName{s.Namespace, s.Name} }

// knownNames are the names of the volumes' objects, or both possible names of an object if it is
// unknown which one it has.
func (s *statuses) knownNames() map[objectName]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[objectName]bool{}
	for id, st := range s.volumes {
		if st.have != nil {
			known[nameOf(st.have)] = true
			continue
		}
		known[nameOf(st.want)] = true
		known[nameOf(withSuffix(st.want, id))] = true
	}
	return known
}
