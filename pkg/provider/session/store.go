package session

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Store is what the engine needs of a kind of secret store.
type Store interface {
	// Parse reads a class. Its error names every wrong field; the Spec then has the
	// warnings.
	Parse(c *class.Class) (*Spec, error)
	// Identify returns the identity of a caller, as the store will see it. claims are
	// those of the service account token for the login.
	Identify(s *Spec, b Bearer, claims identity.Claims) Identity
	// Open begins the work for a caller. It sends no request.
	Open(ctx context.Context, c *Caller) (Session, error)
	// File returns the content of the object's file. The error for a missing key is
	// NotFound.
	File(o *Object, a *Answer) ([]byte, error)
	// Values returns the keys of a complete answer and their JSON values: those that File
	// finds, except keys within another. It returns none if the answer has no keys.
	Values(a *Answer) (map[string][]byte, error)
	// Version returns the public version of an object's value: the store's own, or the
	// hash of the value.
	Version(o *Object, a *Answer, hash func() string) string

	// ReadLogin reads a login of a state, as encoding/json wrote it.
	ReadLogin(raw json.RawMessage) (Login, error)
	// Restored completes and checks an answer from a state; a login sent the request with
	// the id.
	Restored(l Login, id string, kind Kind, a *Answer) error
	// Traits returns the properties of the store as a whole.
	Traits() Traits
}

// Traits are properties of a store as a whole.
type Traits struct {
	// RevokesTokens says that a token can be revoked, which also ends everything that was
	// issued with it. Otherwise each credential is revoked by its lease id, with a login.
	RevokesTokens bool
	// StateVersion changes when an older process could not read the state.
	StateVersion int
}

// Session is the store's part of one run over one volume. Its methods are called
// concurrently for several requests.
type Session interface {
	// Login logs in as the caller. podBound says that the login may depend on the pod and
	// not only on the service account. A token that comes with an error must be revoked.
	Login(ctx context.Context) (t *Token, podBound bool, err error)
	// Issues reports whether the answer to a request is made for the caller alone, and
	// Leases whether it will end with the token of the request: both as far as is known.
	Issues(r *Request) bool
	Leases(r *Request) bool
	// Batches groups requests that the store answers together.
	Batches(list []*Request) [][]*Request
	// Read sends a batch. Its error concerns all of it. ErrAgain is for a request that
	// must be sent again in another form.
	Read(ctx context.Context, tokens Tokens, batch []*Request) (map[*Request]Read, error)
	// Issue sends a request whose answer is made for the caller alone.
	Issue(ctx context.Context, tokens Tokens, r *Request) (*Reading, error)
	// Revoke revokes something at the end of a volume. login returns a token for that, a
	// new one if again is set. After an error the caller tries again.
	Revoke(ctx context.Context, r Revocation, login func(ctx context.Context, again bool) (*Token, error)) error
	// Warnings returns warnings for users, after the requests.
	Warnings() []string
}

// Renewer is a Session of a store that renews tokens and leases.
type Renewer interface {
	// RenewToken requests the same lifetime again. The error is Rejected if the store does
	// not renew the token.
	RenewToken(ctx context.Context, t *Token) (ttl time.Duration, err error)
	// RenewLease returns for how long a lease was extended. An error that is no outage
	// means that the store does not renew the lease.
	RenewLease(ctx context.Context, t *Token, a *Answer) (granted time.Duration, err error)
	// KnowsLease reports whether the store still knows a lease.
	KnowsLease(ctx context.Context, t *Token, a *Answer) (bool, error)
}

// Verifier is a Session of a store that can say whether it knows a token.
type Verifier interface {
	KnowsToken(ctx context.Context, t *Token) bool
}

// Checker is a Session of a store that can say whether something has changed, without a
// read.
type Checker interface {
	// Unchanged returns an earlier answer with new times if it has not changed; nil if it
	// must be read.
	Unchanged(ctx context.Context, r *Request, before *Reading) *Reading
}

// Preparer is a Session that must find something out before requests can be sent.
type Preparer interface {
	Prepare(ctx context.Context, list []*Request) map[*Request]error
}

// Detacher is a Session of a store that may continue an issue after the caller's context
// has ended, so that the engine waits for its answer.
type Detacher interface {
	// Detached must limit its own time.
	Detached()
}

// NotServed marks the error of a request for something of which the store serves nothing
// now. That is an operator's mistake, or a server that is behind the others, and not the
// deletion of a secret: an optional object may be missing because of it only if no file of
// the volume has it.
func NotServed(err error) error { return notServed{err} }

type notServed struct{ error }

func (n notServed) Unwrap() error { return n.error }

// IsNotServed reports whether an error is marked with NotServed.
func IsNotServed(err error) bool {
	_, is := errors.AsType[notServed](err)
	return is
}

// Read is the result of one request of a batch.
type Read struct {
	*Reading
	Err error
}

// Tokens returns a token for a request, and another one than the stale one.
type Tokens func(stale *Token) (*Token, error)

// Login is how one identity logs in, without its secrets. It is comparable, and its JSON
// is part of the state.
type Login interface {
	// Destination returns the server, and the namespace in it.
	Destination() string
	// Access describes the login for the audit trail.
	Access() provider.Access
}

// DecodeLogin reads a login of type L, as encoding/json wrote it.
func DecodeLogin[L Login](raw json.RawMessage) (Login, error) {
	var l L
	if json.Unmarshal(raw, &l) != nil {
		return nil, errors.New("it is not the JSON that was written")
	}
	return l, nil
}

// Identity is who asks, as the store sees it. Volumes of the same identity get the same
// answers, so they share a token and reads.
type Identity struct {
	Login             Login
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	// Pod is the pod's UID if the identity depends on the pod.
	Pod string
	// Credential is a keyed hash of the access key or the like.
	Credential string
}

// sameBut reports whether two identities differ at most in the pod.
func (i Identity) sameBut(o Identity) bool {
	i.Pod, o.Pod = "", ""
	return i == o
}

// Bearer is a pod and its means to log in.
type Bearer struct {
	Pod    identity.Pod
	Tokens identity.Tokens
	// Audience is that of the token for the login.
	Audience string
	// Given is a credential that is not the pod's own, such as an access key.
	Given secret.String
}
