package session

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Spec is a class as a store reads it. It is never changed.
type Spec struct {
	Class class.Ref
	Login Login
	// AsPod says that the login uses a service account token, with Audience.
	AsPod    bool
	Audience string
	// Fallback is the second address of the store; zero for none.
	Fallback endpoint.Address
	// SecretKey is the key of the login's credential in the volume's Secret; empty for
	// none. Given is the class's own credential.
	SecretKey string
	Given     secret.String

	Objects  []*Object
	Requests []*Request
	Warnings []string
	Suspects []string // the warnings that are probably mistakes
	Interval time.Duration
	Scope    class.CredentialScope
	// Bytes is the approximate size in memory.
	Bytes int64
}

// NewSpec returns the spec of a class whose parameters, and list of objects, a store has
// read into set and objects. Objects with the same request share it. nameField is the field
// with an object's name, and interval is that of classes without one. The store sets the login.
func NewSpec(cl *class.Class, set *params.Set, interval time.Duration, nameField string, listed []params.Object, objects []*Object) Spec {
	s := Spec{Class: cl.Ref, Interval: interval, Scope: cl.CredentialScope}
	if cl.RefreshInterval > 0 {
		s.Interval = cl.RefreshInterval
	}
	var files []params.NamedFile
	known := map[string]*Request{}
	for i, o := range objects {
		takes := listed[i].Takes(o.Name)
		files = append(files, listed[i].Named(nameField, takes)...)
		if same, ok := known[o.Request.ID]; ok {
			if own := o.Request.Interval; own > 0 && (same.Interval == 0 || own < same.Interval) {
				same.Interval = own
			}
			o.Request = same
		} else {
			known[o.Request.ID] = o.Request
			s.Requests = append(s.Requests, o.Request)
		}
		for _, t := range takes {
			s.Objects = append(s.Objects, o.taking(t))
		}
	}
	set.CheckFiles(files)
	setKeys(s.Objects)
	s.Warnings, s.Suspects, s.Bytes = set.Warnings, set.Suspects, set.Size()
	return s
}

// Size implements params.Made.
func (s *Spec) Size() int64 { return s.Bytes }

// withoutObjects returns the part that volumes keep after the class has changed.
func (s *Spec) withoutObjects() *Spec {
	return &Spec{Class: s.Class, Login: s.Login, AsPod: s.AsPod, Audience: s.Audience, Interval: s.Interval, Scope: s.Scope}
}

// listed returns the objects of the class. Request.Query names what each reads.
func (s *Spec) listed() []provider.Listed {
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

// taking returns the object with one of its keys and files.
func (o *Object) taking(t params.Take) *Object {
	one := *o
	one.Name, one.Key, one.Every, one.Except = t.File, t.Key, t.Every, t.Except
	return &one
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

// ReadObject reads the fields that the objects of all stores have, except their names and
// keys.
func ReadObject(raw *params.Object) *Object {
	return &Object{Index: raw.Index, Access: raw.Access(), Encoding: raw.Encoding(), Optional: raw.Optional()}
}

// setKeys sets the keys of requests from their objects.
func setKeys(objects []*Object) {
	for _, o := range objects {
		r := o.Request
		r.Keys = append(r.Keys, o.Key)
		r.Whole = r.Whole || o.Key == "" && !o.Every
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
	// Keys are the keys that the objects use, sorted; "" is the whole answer. Whole says
	// that an object has the whole answer in one file.
	Keys  []string
	Whole bool
	// Flight is equal for requests that can share one answer.
	Flight string
	// Interval is the shortest of the objects' own; zero for none.
	Interval time.Duration
	// Query is the store's own form of the request. Its String names it in messages.
	Query fmt.Stringer
}
