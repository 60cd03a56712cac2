package secretsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/secretsync/ownership"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// patience bounds the time of a payload's Secrets within a publish or refresh. The
	// files are in the volume already.
	patience = 10 * time.Second
	// trustAtPublish is for how long a new pod relies on an earlier look or write: pods of
	// a class start together.
	trustAtPublish = 5 * time.Second
	// trustAtRefresh is the same for a refresh that changed nothing. A deleted Secret is
	// missing for that long, if no pod of the class starts.
	trustAtRefresh = time.Hour
	// trustFailure is the time between tries for a Secret of another owner, or without the
	// right.
	trustFailure = time.Minute
	// firstPause and longestPause are the pauses between tries while the API server fails.
	firstPause, longestPause = 5 * time.Second, 2 * time.Minute
	// tries bounds the looks at one Secret while others write it.
	tries = 4
)

// The rate of requests of one node, and of the classes of one namespace.
const (
	nodeQPS, nodeBurst           = 50, 100
	namespaceQPS, namespaceBurst = 10, 50
)

// Config has the parts of a Syncer. Every field is needed.
type Config struct {
	API    API
	Events status.Teller
	Logger *slog.Logger
	// Node is the name of this node.
	Node string
	// Count counts results.
	Count func(Result)
}

// Syncer implements volume.Follower and volume.Observer.
type Syncer struct {
	Config
	hasher provider.Hasher
	memory *memory

	all *rate.Limiter
	mu  sync.Mutex
	// of has the limiters of namespaces.
	of map[string]*rate.Limiter
}

// New checks the configuration. It starts nothing.
func New(c Config) (*Syncer, error) {
	if c.API == nil || c.Events == nil || c.Logger == nil || c.Node == "" || c.Count == nil {
		return nil, errors.New("secretsync: API, Events, Logger, Node and Count must be set")
	}
	return &Syncer{Config: c, memory: newMemory(), all: rate.NewLimiter(nodeQPS, nodeBurst), of: map[string]*rate.Limiter{}}, nil
}

// Warnings implements volume.Follower.
func (s *Syncer) Warnings(*class.Class) []string { return nil }

// Observe implements volume.Observer: it forgets gone volumes.
func (s *Syncer) Observe(o volume.Outcome) {
	if o.Kind == volume.Unpublished && o.Err == nil {
		s.memory.retain(o.ID, nil)
	}
}

// Idle implements volume.Follower.
func (*Syncer) Idle() bool { return false }

// Follow implements volume.Follower: it writes those Secrets of the class that differ from
// the payload.
func (s *Syncer) Follow(ctx context.Context, f volume.Followed) (again time.Time) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if len(f.Class.SecretObjects) == 0 {
		s.memory.retain(f.Volume, nil)
		return time.Time{}
	}
	keys := map[key]bool{}
	templates, err := templatesOf(f)
	if err == nil {
		defer templates.Close()
	}
	for _, entry := range f.Class.SecretObjects {
		k := key{f.Class.Ref, entry.SecretName}
		keys[k] = true
		again = clock.Earliest(again, s.follow(ctx, f, k, func() (*wanted, error) {
			if err != nil {
				return nil, err
			}
			return s.build(f, entry, templates)
		}))
	}
	s.memory.retain(f.Volume, keys)
	return again
}

// templatesOf prepares the rendering of the class's secretTemplates. They were compiled with
// the templates of the volume's files.
func templatesOf(f volume.Followed) (*rendered.SecretRenderer, error) {
	if f.Class.SecretTemplates == "" {
		return &rendered.SecretRenderer{}, nil
	}
	prepared, ok := f.Rendering.(*rendered.Prepared)
	if !ok {
		return nil, fault.New(fault.Internal, "the templates of class %s are not compiled", f.Class)
	}
	return prepared.Secrets(f.Files, f.Versions, budget.Owner{Namespace: f.Pod.Namespace, Volume: f.Volume})
}

// wish is one Secret for one volume.
type wish struct {
	volume.Followed
	key key
	*wanted
	had seen
	// insist says that the volume has something new.
	insist bool
}

func (s *Syncer) follow(ctx context.Context, f volume.Followed, k key, build func() (*wanted, error)) (again time.Time) {
	st, had := s.memory.take(f.Volume, k)
	select {
	case st.turn <- struct{}{}:
		defer func() { <-st.turn }()
	case <-ctx.Done():
		return time.Now().Add(firstPause)
	}
	want, err := build()
	if err != nil {
		s.record(f, k, st, Invalid, err)
		st.refused = "" // another volume may have better files
		return time.Time{}
	}
	w := wish{Followed: f, key: k, wanted: want, had: had, insist: f.First || had.digest != want.digest}
	if until := s.rests(st, w); time.Now().Before(until) {
		s.remember(st, w)
		if st.failure != nil && st.refused == w.digest { // report it to this pod too
			s.tell(f, k, corev1.EventTypeWarning, SecretNotWritten, st.failure.Error())
		}
		if st.last == Failed {
			return until
		}
		return st.replaceAt(w.content)
	}
	result, err := s.reconcile(ctx, st, w)
	st.at, st.refused = time.Now(), w.digest
	s.record(f, k, st, result, err)
	s.remember(st, w)
	if result == Failed {
		return time.Now().Add(pause(st.failures))
	}
	return st.replaceAt(w.content)
}

// rests returns until when no request must be sent.
func (s *Syncer) rests(st *state, w wish) time.Time {
	trust := trustAtRefresh
	if w.First {
		trust = trustAtPublish
	}
	switch {
	case st.at.IsZero():
		return time.Time{}
	case st.last == Failed:
		return st.at.Add(pause(st.failures))
	case st.failure != nil && st.refused == w.digest:
		return st.at.Add(min(trust, trustFailure))
	case st.failure == nil && w.class.SecretOwner == class.OwnerPods && w.had.owned != st.uid:
		return time.Time{}
	case st.hasAllBut(w.content):
		return clock.Earliest(st.at.Add(trust), st.replaceAt(w.content))
	case !w.insist, st.has(w.digest), st.failure == nil && st.content.newer(w.content):
		return st.at.Add(trust) // without insist: another volume has changed it since
	}
	return time.Time{}
}

// remember records that a volume's Secret is done.
func (s *Syncer) remember(st *state, w wish) {
	if st.failure != nil {
		return
	}
	if st.has(w.digest) || st.hasAllBut(w.content) {
		w.had.digest = w.digest
	}
	if w.class.SecretOwner == class.OwnerPods {
		w.had.owned = st.uid
	}
	s.memory.note(w.Volume, w.key, w.had)
}

// reconcile looks, judges and writes until the result is final.
func (s *Syncer) reconcile(ctx context.Context, st *state, w wish) (Result, error) {
	for range tries {
		found, err := s.look(ctx, w)
		if err != nil {
			return classify(w, err)
		}
		result := judge(found, w.wanted, w.insist, time.Now())
		switch result {
		case Foreign:
			return Foreign, fault.New(fault.Conflict, "the Secret is there already and belongs to %s", ownership.Owners(found)).
				WithHint("delete it, or give the class's entry another secretName; Mayfly never takes over what it has not made")
		case Written:
			was := found
			found, err = s.apply(ctx, w, ownership.Manager(w.class.Name), w.apply(s.Node, was))
			if isRace(err) {
				continue
			}
			if err != nil {
				return classify(w, err)
			}
			s.Logger.Info("Kubernetes Secret written", logkey.Secret, w.class.Namespace+"/"+w.entry.SecretName, logkey.Class, w.class.String(), logkey.Pod, w.Pod.String(), logkey.Created, was == nil)
		}
		st.uid, st.content = found.UID, contentOf(found)
		if err := s.own(ctx, w, found); isRace(err) {
			continue
		} else if err != nil {
			return classify(w, err)
		}
		return result, nil
	}
	return Failed, fault.New(fault.Conflict, "others change the Secret all the time")
}

// own makes the pod an owner, if the class wants that.
func (s *Syncer) own(ctx context.Context, w wish, found *metav1.PartialObjectMetadata) error {
	if w.class.SecretOwner != class.OwnerPods || w.had.owned == found.UID {
		return nil
	}
	_, err := s.apply(ctx, w, ownerManager(w.class.Ref, w.Pod), w.applyOwner(w.Pod, found.UID))
	return err
}

func (s *Syncer) look(ctx context.Context, w wish) (*metav1.PartialObjectMetadata, error) {
	if err := s.wait(ctx, w.class.Namespace); err != nil {
		return nil, err
	}
	return s.API.Look(ctx, w.class.Namespace, w.entry.SecretName)
}

func (s *Syncer) apply(ctx context.Context, w wish, manager string, object *applied) (*metav1.PartialObjectMetadata, error) {
	if err := s.wait(ctx, w.class.Namespace); err != nil {
		return nil, err
	}
	return s.API.Apply(ctx, w.class.Namespace, w.entry.SecretName, manager, object.encode())
}

// wait waits for the namespace's limiter first, so that a namespace with many writes does
// not use the others' share.
func (s *Syncer) wait(ctx context.Context, namespace string) error {
	s.mu.Lock()
	l := s.of[namespace]
	if l == nil {
		for name, other := range s.of {
			if other.Tokens() >= namespaceBurst {
				delete(s.of, name) // it is full again
			}
		}
		l = rate.NewLimiter(namespaceQPS, namespaceBurst)
		s.of[namespace] = l
	}
	s.mu.Unlock()
	for _, limit := range []*rate.Limiter{l, s.all} {
		if err := limit.Wait(ctx); err != nil {
			return fmt.Errorf("waiting for a turn to ask the API server: %w", err)
		}
	}
	return nil
}

func pause(failures int) time.Duration {
	return backoff.Delay(firstPause, longestPause, failures-1, 0)
}
