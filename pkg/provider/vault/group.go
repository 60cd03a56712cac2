package vault

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// identityKey is who asks, as far as the store can tell. Volumes with the same
// key are answered alike, so they share a login and reads.
type identityKey struct {
	login             login
	namespace         string
	serviceAccount    string
	serviceAccountUID string
	pod               string // the pod's UID where the identity is the pod's
}

// group is the volumes of one identity.
type group struct {
	key    identityKey
	login  session.Login[*token] // for reads
	logins singleflight.Group[struct{}, *token]
	reads  singleflight.Group[string, *reading]
	recent *session.Answers[*reading]
	// lookups tell whether the server knows a token.
	lookups singleflight.Group[*token, bool]
	// holder has the credentials of scope serviceAccount.
	holder *holder

	// noMetadata are the requests for which a look at the metadata does not
	// do, mostly because the policy does not allow it.
	noMetadata session.Memory[string, struct{}]
	// mounts are what is mounted at the paths that were refused.
	mounts session.Memory[string, mounted]
}

// groups holds the identities that this node has volumes of.
type groups struct {
	session.Groups[identityKey, group]
	budget *budget.Budget
}

func (s *groups) join(key identityKey, volume string) *group {
	return s.Join(key, volume, func(key identityKey) *group {
		owner := budget.Owner{Namespace: key.namespace}
		return &group{key: key, holder: newHolder(s.budget, owner), recent: session.NewAnswers[*reading](s.budget, owner)}
	})
}

// leave ends the membership. The last to leave gets the tokens, to end them.
func (s *groups) leave(g *group, volume string) []*token {
	if g == nil || !s.Leave(g.key, g, volume) {
		return nil
	}
	g.recent.Close()
	tokens := g.holder.takeTokens()
	if t := g.login.Adopt(nil); t != nil {
		tokens = append(tokens, t)
	}
	return tokens
}

// reading is one answer and when it was had.
type reading struct {
	answer *answer
	kind   kind
	asked  time.Time // before the request left
	read   time.Time // the same of the last request for the answer itself
	at     time.Time // when the answer was there
	end    time.Time // of the lifetime, or the announced change
	due    time.Time // of a static answer; others depend on the class
	absent bool      // the store has nothing there, and the class does not mind
	token  *token    // that it was asked with
	// correlation is the request's in the store's audit log; empty for an
	// answer of an earlier process.
	correlation string
}

// AskedAt implements session.Reading.
func (rd *reading) AskedAt() time.Time { return rd.asked }

// Size implements session.Reading.
func (rd *reading) Size() int64 {
	const base = 256
	if rd.answer == nil {
		return base
	}
	return base + rd.answer.size()
}

// answers tells whether the reading is one for what the objects take.
func (rd *reading) answers(r *request) bool { return rd != nil && (rd.absent || rd.answer.has(r.keys)) }

// learned remembers what the store's answers taught: which requests lease or
// mint, and which logins are bound to pods.
type learned struct {
	kinds session.Memory[requestKey, kind]
	bound session.Memory[login, struct{}]
	// unrevoked are the logins whose tokens may not revoke themselves.
	unrevoked session.Memory[login, struct{}]
}

// firstUnrevoked notes such a login, and tells whether it is news.
func (k *learned) firstUnrevoked(l login) bool {
	known := k.unrevoked.Has(l)
	k.unrevoked.Set(l, struct{}{})
	return !known
}

type requestKey struct {
	target       endpoint.Target
	namespace    string
	method, path string
}

func keyOf(l login, r *request) requestKey {
	return requestKey{l.target, l.namespace, r.method, r.path}
}

func (k *learned) kindOf(l login, r *request) (kind, bool) { return k.kinds.Get(keyOf(l, r)) }

func (k *learned) setKind(l login, r *request, is kind) { k.kinds.Set(keyOf(l, r), is) }

func (k *learned) isBound(l login) bool { return k.bound.Has(l) }

func (k *learned) setBound(l login) { k.bound.Set(l, struct{}{}) }

// identify makes the key of a pod's identity. Where it is not yet known how
// the store sees it, the service account is tried first: the answer to the
// login corrects it.
func (k *learned) identify(l login, pod identity.Pod, claims identity.Claims) identityKey {
	key := identityKey{login: l, namespace: pod.Namespace, serviceAccount: pod.ServiceAccount, serviceAccountUID: claims.ServiceAccountUID}
	if claims.ServiceAccountUID == "" || l.sharing == sharePod || k.isBound(l) {
		key.pod = pod.UID
	}
	return key
}
