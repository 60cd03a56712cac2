package session

import (
	"fmt"
	"maps"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// mostFiles bounds the files that the keys of answers make in one volume, in addition to
// the volume's limits.
const mostFiles = 10_000

// made has the files of one object.
type made struct {
	of    *Object
	files []content
}

// content is one file: its object, and its value.
type content struct {
	*Object
	value []byte
}

// hashed is the input of the version's hash. All keys of a secret have one version, as if
// the store numbered the secret.
func (m made) hashed() (list [][]byte) {
	for _, one := range m.files {
		if m.of.Every {
			list = append(list, []byte(one.Key))
		}
		list = append(list, one.value)
	}
	return list
}

// contents returns the files of a class from the store's answers to its requests. Optional
// objects may be missing.
func contents(store Store, s *Spec, answer func(*Request) *Answer) ([]made, error) {
	all := make([]made, 0, len(s.Objects))
	n := 0
	for _, o := range s.Objects {
		a := answer(o.Request)
		if a == nil {
			continue
		}
		m, err := filesOf(store, o, a)
		if err != nil && o.Optional && fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		if n += len(m.files); o.Every && n > mostFiles {
			return nil, fault.New(fault.TooLarge, "%s: with its keys the volume has more than %d files", o, mostFiles).
				WithHint("make several classes of it")
		}
		all = append(all, m)
	}
	return all, collision(s, all)
}

// filesOf makes the files of one object.
func filesOf(store Store, o *Object, a *Answer) (made, error) {
	m := made{of: o}
	if !o.Every {
		value, err := store.File(o, a)
		m.files = []content{{o, value}}
		return m, err
	}
	values, err := store.Values(a)
	switch {
	case err != nil:
		return m, fmt.Errorf("%s: %w", o.Request.Name, err)
	case len(values) == 0:
		return m, fault.New(fault.NotFound, "%s has no keys", o.Request.Name).WithHint("leave secretKeys out to have the whole answer in one file")
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if slices.Contains(o.Except, key) {
			continue
		}
		one, err := o.fileOf(key, values[key])
		if err != nil {
			return m, err
		}
		m.files = append(m.files, one)
	}
	return m, nil
}

// fileOf returns the file of one key, for an object that takes all keys.
func (o *Object) fileOf(key string, raw []byte) (content, error) {
	name, err := params.JoinName(o.Name, key)
	if err != nil {
		return content{}, fault.New(fault.InvalidClass, "the key %q of %s cannot be the name of a file: %w", params.Clip(key), o.Request.Name, err).
			WithHint(`give its file another name with secretKeys: {"*": "*", KEY: FILE}, or list the wanted keys alone`)
	}
	value, err := o.Encoding.FileOf(raw)
	if err != nil {
		return content{}, o.undecodable(key, err)
	}
	return content{o.taking(params.Take{File: name, Key: key}), value}, nil
}

// Content returns the content of an object's file from an answer. pick returns the JSON value
// of a key of a whole answer, nil for none, and names lists the keys, as TakePart has got it.
func (o *Object) Content(a *Answer, pick func(key string) []byte, names func() string) (out []byte, err error) {
	missing := ""
	if a.Part != nil {
		if out, err = a.Part.File(o.Key, o.Encoding); out == nil {
			missing = a.Part.Names
		}
	} else if raw := pick(o.Key); raw != nil {
		out, err = o.Encoding.FileOf(raw)
	} else {
		missing = names()
	}
	switch {
	case err != nil:
		return nil, o.undecodable(o.Key, err)
	case missing != "":
		return nil, fault.New(fault.NotFound, "%s has no key %q%s", o.Request.Query, o.Key, missing)
	}
	return out, nil
}

// undecodable returns the error for a value that is not in the object's encoding.
func (o *Object) undecodable(key string, err error) error {
	what := "the value"
	if key != "" {
		what = fmt.Sprintf("the value of %q", params.Clip(key))
	}
	return fault.New(fault.InvalidClass, "spec.parameters.objects[%d].encoding: %s in %s is not %s: %w", o.Index, what, o.Request.Query, o.Encoding, err)
}

// collision returns the error for files that cannot be in one volume. If no object takes
// all keys, the class is wrong.
func collision(s *Spec, all []made) (err error) {
	if !slices.ContainsFunc(s.Objects, func(o *Object) bool { return o.Every }) {
		return nil
	}
	var named []params.NamedFile
	var from []string
	for _, m := range all {
		for _, one := range m.files {
			named = append(named, params.NamedFile{Name: one.Name, Index: len(named)})
			who := m.of.String()
			if m.of.Every {
				who = fmt.Sprintf("the key %q of %s", params.Clip(one.Key), who)
			}
			from = append(from, who)
		}
	}
	params.Collisions(named, func(f, with params.NamedFile, inside bool) {
		if err != nil {
			return
		}
		what := fmt.Sprintf("both are the file %q", params.Clip(f.Name))
		if inside {
			what = fmt.Sprintf("%q cannot be in %q, which is a file", params.Clip(f.Name), params.Clip(with.Name))
		}
		err = fault.New(fault.InvalidClass, "%s and %s: %s", from[with.Index], from[f.Index], what).
			WithHint("give one of the objects a directory of its own, or the key another file name in its secretKeys")
	})
	return err
}

// inFiles reports whether the files of a volume have everything that an answer gives to
// the objects of its request, except what is optional.
func inFiles(store Store, s *Spec, r *Request, a *Answer, files []provider.Version) bool {
	have := make(map[string]bool, len(files))
	for _, v := range files {
		have[v.ID] = true
	}
	missing := func(o *Object) bool {
		if o.Request != r || o.Optional {
			return false
		}
		if !o.Every || a == nil {
			return !have[o.Name]
		}
		m, err := filesOf(store, o, a)
		return err != nil || slices.ContainsFunc(m.files, func(c content) bool { return !have[c.Name] })
	}
	return len(files) > 0 && !slices.ContainsFunc(s.Objects, missing)
}
