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

// Store is a kind of secret store, as the engine needs it.
type Store interface {
	// Parse reads a class. Its error names every bad field.
	Parse(c *class.Class) (*Spec, error)
	// Identify tells who asks, as far as the store can tell. claims are those of
	// the service account token that logs in.
	Identify(s *Spec, b Bearer, claims identity.Claims) Identity
	// Open begins the work for a caller. It asks nobody.
	Open(ctx context.Context, c *Caller) (Session, error)
	// File is what the object's file holds of an answer. An object whose key is
	// missing is NotFound.
	File(o *Object, a *Answer) ([]byte, error)
	// Values are the keys of an answer in which all of it was kept, as JSON writes
	// their values: those that File finds, but not what is inside of another. There
	// are none where the answer has no keys.
	Values(a *Answer) (map[string][]byte, error)
	// Version is that of an object's value, which anybody may read: the store's
	// own, or the hash of the value.
	Version(o *Object, a *Answer, hash func() string) string

	// ReadLogin reads a login of a state, as encoding/json wrote it.
	ReadLogin(raw json.RawMessage) (Login, error)
	// Restored completes and checks an answer of a state, of what a login asked
	// by its id.
	Restored(l Login, id string, kind Kind, a *Answer) error
	// Traits are what holds for the store as a whole.
	Traits() Traits
}

// Traits are what holds for a store as a whole.
type Traits struct {
	// RevokesTokens tells that a token is revoked by itself, and that all which
	// was issued with it ends with it. Otherwise each credential is revoked by
	// its lease id, with a login.
	RevokesTokens bool
	// StateVersion changes when an older process could not read what this one
	// writes.
	StateVersion int
}

// Session is the store's side of one run over one volume. Its methods are
// called for several requests at a time.
type Session interface {
	// Login logs in as the caller. podBound tells that the store took the login
	// for more than that of the service account. A token beside an error is to
	// be revoked.
	Login(ctx context.Context) (t *Token, podBound bool, err error)
	// Issues tells whether the answer to a request is made for the asker alone,
	// and Leases whether it will end with the token that it is asked with: both
	// as far as is known.
	Issues(r *Request) bool
	Leases(r *Request) bool
	// Batches groups requests that the store answers together.
	Batches(list []*Request) [][]*Request
	// Read asks for a batch. Its error concerns all of it. ErrAgain is for a
	// request about which it has learned something, to be asked for again.
	Read(ctx context.Context, tokens Tokens, batch []*Request) (map[*Request]Read, error)
	// Issue asks for what is made for the asker alone.
	Issue(ctx context.Context, tokens Tokens, r *Request) (*Reading, error)
	// Revoke ends what is to end with a volume. login gives a token for it, a new
	// one where again is set. An error is for what may be tried again.
	Revoke(ctx context.Context, r Revocation, login func(ctx context.Context, again bool) (*Token, error)) error
	// Warnings are for people, once the requests were answered.
	Warnings() []string
}

// Renewer is a Session of a store whose tokens and leases can be renewed.
type Renewer interface {
	// RenewToken asks for as long a life as before. Rejected is for a token that
	// the store does not renew.
	RenewToken(ctx context.Context, t *Token) (ttl time.Duration, err error)
	// RenewLease tells for how long a lease was extended. An error that is no
	// outage is for a lease that the store does not renew.
	RenewLease(ctx context.Context, t *Token, a *Answer) (granted time.Duration, err error)
	// KnowsLease tells whether the store still knows a lease.
	KnowsLease(ctx context.Context, t *Token, a *Answer) (bool, error)
}

// Verifier is a Session of a store that can be asked whether it knows a token.
type Verifier interface {
	KnowsToken(ctx context.Context, t *Token) bool
}

// Checker is a Session of a store that tells whether something has changed
// without telling what it is.
type Checker interface {
	// Unchanged gives an earlier answer with a new date if it is still the
	// store's; nil where it has to be read.
	Unchanged(ctx context.Context, r *Request, before *Reading) *Reading
}

// Preparer is a Session that has to find something out before requests can be
// made.
type Preparer interface {
	Prepare(ctx context.Context, list []*Request) map[*Request]error
}

// Detacher is a Session of a store that may go on with an issue whether or not
// the caller still waits, so that its answer is waited for.
type Detacher interface {
	// Detached must be bounded by itself.
	Detached()
}

// NotServed marks the failure of a request for something that the store serves
// nothing of now. That is a mistake of an operator, or a server that is behind
// the others, and not the end of a secret: an optional object may be missing for
// it only where no file of the volume has it.
func NotServed(err error) error { return notServed{err} }

type notServed struct{ error }

func (n notServed) Unwrap() error { return n.error }

// IsNotServed tells whether a failure was marked so.
func IsNotServed(err error) bool {
	var n notServed
	return errors.As(err, &n)
}

// Read is what came of one request of a batch.
type Read struct {
	*Reading
	Err error
}

// Tokens gives a token to ask with, and not the stale one.
type Tokens func(stale *Token) (*Token, error)

// Login is what one identity logs in with, but for its secrets. It is
// comparable, and its JSON is part of the state.
type Login interface {
	// Destination names the server, and the namespace in it.
	Destination() string
	// Access is where the login is made, and by what, for the audit trail.
	Access() provider.Access
}

// Identity is who asks, as far as the store can tell. Volumes of the same
// identity are answered alike, so they share a token and what they read.
type Identity struct {
	Login             Login
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	// Pod is the pod's UID where the identity is the pod's.
	Pod string
	// Credential is a keyed hash of the access key or the like.
	Credential string
}

// sameBut tells whether two identities differ in the pod at the most.
func (i Identity) sameBut(o Identity) bool {
	i.Pod, o.Pod = "", ""
	return i == o
}

// Bearer is a pod with what it has to log in with.
type Bearer struct {
	Pod    identity.Pod
	Tokens identity.Tokens
	// Audience is that of the token to log in with.
	Audience string
	// Given is a credential that is not the pod's own, such as an access key.
	Given secret.String
}

// Spec is a class as a store understands it. It is never changed.
type Spec struct {
	Class class.Ref
	Login Login
	// AsPod tells that the login is made with a service account token, for
	// Audience.
	AsPod    bool
	Audience string
	// SecretKey is where the volume's Secret has the credential to log in with;
	// empty for none. Given is what the class has itself.
	SecretKey string
	Given     secret.String

	Objects  []*Object
	Requests []*Request
	Warnings []string
	Interval time.Duration
	Scope    class.CredentialScope
	// Bytes is about how much memory it takes.
	Bytes int64
}

// Size implements params.Made.
func (s *Spec) Size() int64 { return s.Bytes }

// withoutObjects is what outlives the class in the volumes that were answered.
func (s *Spec) withoutObjects() *Spec {
	return &Spec{Class: s.Class, Login: s.Login, AsPod: s.AsPod, Audience: s.Audience, Interval: s.Interval, Scope: s.Scope}
}

// ids are the requests that the class makes.
func (s *Spec) ids() map[string]bool {
	ids := make(map[string]bool, len(s.Requests))
	for _, r := range s.Requests {
		ids[r.ID] = true
	}
	return ids
}

// names are the objects that a request is made for.
func (s *Spec) names(r *Request) string {
	for _, o := range s.Objects {
		if o.Request == r {
			return o.String()
		}
	}
	return "spec.parameters.objects"
}

// optional tells whether all that the request is made for may be missing.
func (s *Spec) optional(r *Request) bool {
	return !slices.ContainsFunc(s.Objects, func(o *Object) bool { return o.Request == r && !o.Optional })
}

// shown tells whether the files of a volume have something of the request. Which
// files all keys of a secret were is not known without it: every file in their
// directory may be one.
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

// Object is what a class takes of the answer to a request: the value of one key
// for one file, or with Every of each key for a file of its name.
type Object struct {
	Index int
	// Name is the file's; with Every that of their directory, "" for the volume.
	Name   string
	Key    string // empty for the whole answer
	Every  bool
	Except []string // keys that Every leaves to other objects

	Access   params.Access
	Encoding params.Encoding
	Optional bool
	Request  *Request
}

// Taking is the object with one of the things that the class takes for it.
func (o *Object) Taking(t params.Take) Object {
	one := *o
	one.Name, one.Key, one.Every, one.Except = t.File, t.Key, t.Every, t.Except
	return one
}

// Files are how people call the object's files.
func (o *Object) Files() string {
	if o.Every {
		return path.Join(o.Name, params.EveryKey)
	}
	return o.Name
}

// Keys are how people call what the object takes of the answer; empty for all of
// it in one file.
func (o *Object) Keys() string {
	if o.Every {
		return params.EveryKey
	}
	return o.Key
}

// String is how errors name the object.
func (o *Object) String() string {
	return fmt.Sprintf("spec.parameters.objects[%d] %q", o.Index, o.Files())
}

// SetKeys gives the requests of objects what these take of the answers.
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

// Request is one distinct question to the store. Objects that ask the same
// share one, so their values always come from one answer.
type Request struct {
	ID string
	// Name is what people call what is asked for.
	Name string
	// Keys are what the objects take of the answer, sorted; "" stands for all of
	// it.
	Keys []string
	// Flight is equal for requests that one answer will do for.
	Flight string
	// Interval is the shortest that stands on an object; zero for none.
	Interval time.Duration
	// Query is the store's own form of the request.
	Query any
}
