package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Store is what the engine needs of a kind of secret store.
type Store interface {
	// Parse reads a class. Its error names every wrong field.
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
	var n notServed
	return errors.As(err, &n)
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

// Spec is a class as a store reads it. It is never changed.
type Spec struct {
	Class class.Ref
	Login Login
	// AsPod says that the login uses a service account token, with Audience.
	AsPod    bool
	Audience string
	// SecretKey is the key of the login's credential in the volume's Secret; empty for
	// none. Given is the class's own credential.
	SecretKey string
	Given     secret.String

	Objects  []*Object
	Requests []*Request
	Warnings []string
	Interval time.Duration
	Scope    class.CredentialScope
	// Bytes is the approximate size in memory.
	Bytes int64
}

// Size implements params.Made.
func (s *Spec) Size() int64 { return s.Bytes }

// withoutObjects returns the part that volumes keep after the class has changed.
func (s *Spec) withoutObjects() *Spec {
	return &Spec{Class: s.Class, Login: s.Login, AsPod: s.AsPod, Audience: s.Audience, Interval: s.Interval, Scope: s.Scope}
}

// Listed returns the objects of the class. Request.Query names what each reads.
func (s *Spec) Listed() []provider.Listed {
	out := make([]provider.Listed, len(s.Objects))
	for i, o := range s.Objects {
		out[i] = provider.Listed{ID: o.Files(), From: o.Request.Query.String(), Key: o.Keys()}
	}
	return out
}

// ids returns the ids of the class's requests.
func (s *Spec) ids() map[string]bool {
	ids := make(map[string]bool, len(s.Requests))
	for _, r := range s.Requests {
		ids[r.ID] = true
	}
	return ids
}

// names returns the objects of a request.
func (s *Spec) names(r *Request) string {
	for _, o := range s.Objects {
		if o.Request == r {
			return o.String()
		}
	}
	return "spec.parameters.objects"
}

// optional reports whether all objects of a request are optional.
func (s *Spec) optional(r *Request) bool {
	return !slices.ContainsFunc(s.Objects, func(o *Object) bool { return o.Request == r && !o.Optional })
}

// shown reports whether the files of a volume have something of the request. The names of
// the files of all keys are unknown without an answer, so every file in their directory
// may be one.
func (s *Spec) shown(r *Request, files []provider.Version) bool {
	return slices.ContainsFunc(s.Objects, func(o *Object) bool {
		return o.Request == r && slices.ContainsFunc(files, func(v provider.Version) bool {
			if o.Every {
				return o.Name == "" || strings.HasPrefix(v.ID, o.Name+"/")
			}
			return v.ID == o.Name
		})
	})
}

// Object is what a class uses of the answer to a request: the value of one key for one
// file, or with Every the value of each key for a file with its name.
type Object struct {
	Index int
	// Name is the file's; with Every that of the directory, "" for the volume.
	Name   string
	Key    string // empty for the whole answer
	Every  bool
	Except []string // keys that Every leaves to other objects

	Access   params.Access
	Encoding params.Encoding
	Optional bool
	Request  *Request
}

// Taking returns the object with one of its keys and files.
func (o *Object) Taking(t params.Take) Object {
	one := *o
	one.Name, one.Key, one.Every, one.Except = t.File, t.Key, t.Every, t.Except
	return one
}

// Files names the object's files in messages.
func (o *Object) Files() string {
	if o.Every {
		return path.Join(o.Name, params.EveryKey)
	}
	return o.Name
}

// Keys names the object's keys in messages; empty for the whole answer in one file.
func (o *Object) Keys() string {
	if o.Every {
		return params.EveryKey
	}
	return o.Key
}

// String names the object in errors.
func (o *Object) String() string {
	return fmt.Sprintf("spec.parameters.objects[%d] %q", o.Index, o.Files())
}

// SetKeys sets the keys of requests from their objects.
func SetKeys(objects []*Object) {
	for _, o := range objects {
		o.Request.Keys = append(o.Request.Keys, o.Key)
	}
	for _, o := range objects {
		r := o.Request
		slices.Sort(r.Keys)
		r.Keys = slices.Compact(r.Keys)
		r.Flight = r.ID + "\n\n" + strings.Join(r.Keys, "\n")
	}
}

// Request is one distinct request to the store. Objects with the same request share it, so
// their values always come from one answer.
type Request struct {
	ID string
	// Name names the request in messages.
	Name string
	// Keys are the keys that the objects use, sorted; "" is the whole answer.
	Keys []string
	// Flight is equal for requests that can share one answer.
	Flight string
	// Interval is the shortest of the objects' own; zero for none.
	Interval time.Duration
	// Query is the store's own form of the request. Its String names it in messages.
	Query fmt.Stringer
}
