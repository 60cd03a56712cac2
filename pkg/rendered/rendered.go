// Package rendered makes files from the objects of a provider, as the class's templates and formats
// ask, and gives files the modes and owners of the class's permissions. It is the same for every
// provider, and its result depends only on the class and the objects.
package rendered

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/rendered/tmpl"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// maxMade bounds the entries of the lists. The slow hashes of a keystore take some milliseconds at
// each refresh.
func maxMade(key string) int {
	if key == class.FormatsKey {
		return 10
	}
	return 100
}

// File is one file to make.
type File struct {
	// Field is the entry of the class that asks for the file, such as spec.parameters.templates[0].
	Field string
	Path  string
	params.Access

	template *tmpl.Template
	made     *made // of a format
}

// Renderer makes the files that classes ask for.
type Renderer struct {
	budget   *budget.Budget
	compiled params.Cache[*Prepared]
}

// New returns a Renderer that charges the budget, which may be nil, with what it keeps and with what
// it needs meanwhile.
func New(b *budget.Budget) *Renderer {
	return &Renderer{budget: b, compiled: params.Cache[*Prepared]{Budget: b}}
}

// Rendering is volume.Rendering, which is a *Prepared here.
type Rendering = interface {
	Render(p *provider.Payload, limit int64, o budget.Owner) (*provider.Payload, error)
}

// Prepared is what one version of a class asks for, compiled. It implements params.Made.
type Prepared struct {
	*Renderer
	class    *class.Class
	lists    Lists
	warnings []string
}

// Prepare implements volume.Renderer.
func (r *Renderer) Prepare(volume string, c *class.Class) (Rendering, []string, error) {
	d := &Prepared{Renderer: r, class: c}
	if !asks(c) {
		return d, nil, nil
	}
	made, err := r.compiled.Get(volume, c, func(c *class.Class) (_ *Prepared, err error) {
		d.lists, d.warnings, err = Parse(c)
		return d, err
	})
	if err != nil {
		return nil, d.warnings, err
	}
	return made, made.warnings, nil
}

// Leave implements volume.Renderer.
func (r *Renderer) Leave(volume string) { r.compiled.Leave(volume) }

// What a compiled class takes in memory, in bytes: each byte of its lists can become some of a
// template's tree.
const (
	perClass = 1 << 10
	perByte  = 32
)

// Size implements params.Made.
func (d *Prepared) Size() int64 {
	c := d.class
	return perClass + perByte*int64(len(c.Templates)+len(c.Formats)+len(c.Permissions)+len(c.SecretTemplates))
}

func asks(c *class.Class) bool {
	return c.Templates != "" || c.Formats != "" || c.Permissions != "" || c.SecretTemplates != ""
}

// Check checks the class's lists, without objects. The error names every wrong field.
func Check(c *class.Class) (warnings []string, err error) {
	_, warnings, err = Parse(c)
	return warnings, err
}

// Lists are the parsed lists of a class.
type Lists struct {
	// Made are the files to make, in that order: formats can use the files of templates.
	Made []File
	// Permissions are the modes and owners of files.
	Permissions []File
	permissions map[string]params.Access // by path
	// Secrets are the templates of Kubernetes Secrets by the Secrets' names.
	Secrets map[string]*Secret
}

// Parse reads the class's lists.
func Parse(c *class.Class) (l Lists, warnings []string, err error) {
	if !asks(c) {
		return Lists{}, nil, nil
	}
	keys := class.ListKeys()
	set := params.New(map[string]string{class.TemplatesKey: c.Templates, class.FormatsKey: c.Formats, class.PermissionsKey: c.Permissions, class.SecretTemplatesKey: c.SecretTemplates},
		params.Known{Keys: keys, Long: keys})
	made := map[string]string{}
	l.permissions = map[string]params.Access{}
	for _, key := range keys {
		if !set.Has(key) {
			continue
		}
		if key == class.SecretTemplatesKey {
			l.Secrets = secrets(set, c)
			continue
		}
		files, byName := &l.Made, made
		if key == class.PermissionsKey {
			files, byName = &l.Permissions, map[string]string{}
		}
		listed := set.Objects(key)
		if most := maxMade(key); len(listed) > most {
			set.Invalid(key, fmt.Sprintf("has %d files, more than %d", len(listed), most))
			continue
		}
		for i := range listed {
			f := newFile(key, &listed[i])
			if first, taken := byName[f.Path]; taken && f.Path != "" {
				listed[i].Forbid(fieldName, "says the same as "+first)
			}
			byName[f.Path] = f.Field + "." + fieldName
			*files = append(*files, f)
			if key == class.PermissionsKey {
				l.permissions[f.Path] = f.Access
			}
		}
	}
	if err := errors.Join(set.Err(), class.Suspected(set.Suspects)); err != nil {
		return Lists{}, set.Warnings, err
	}
	return l, set.Warnings, nil
}

// Render implements volume.Rendering: it returns a copy of the payload with the files,
// modes and owners that the class asks for.
func (d *Prepared) Render(p *provider.Payload, limit int64, o budget.Owner) (_ *provider.Payload, err error) {
	if len(d.lists.Made) > 0 {
		p, err = d.make(d.lists.Made, p, limit, o)
	}
	if err == nil && len(d.lists.Permissions) > 0 {
		p, err = d.lists.permit(p)
	}
	return p, err
}

// make adds files to a copy of the payload.
func (r *Renderer) make(files []File, p *provider.Payload, limit int64, o budget.Owner) (*provider.Payload, error) {
	have, size, charge, err := r.values(p.Files, o)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", files[0], err)
	}
	defer charge.Release()
	l := tmpl.DefaultLimits() // of all templates together
	l.Output = min(l.Output, limit)
	out := *p
	out.Files = slices.Clone(p.Files)
	for _, f := range files {
		if _, taken := have[f.Path]; taken {
			return nil, fault.New(fault.InvalidClass, "%s.%s: an object has the file name %q too", f.Field, fieldName, params.Clip(f.Path))
		}
		l.Reserve = func(n int64) error { return charge.Resize(size + n) }
		contents, err := f.render(have, &l)
		if err != nil {
			return nil, fmt.Errorf("rendering %s: %w", f, reasoned(err))
		}
		size += int64(len(contents))
		if err := charge.Resize(size); err != nil {
			return nil, fmt.Errorf("rendering %s: %w", f, err)
		}
		have[f.Path] = string(contents)
		out.Files = append(out.Files, provider.File{Path: f.Path, Mode: f.Mode, Owner: f.Owner, Contents: secret.NewBytes(contents)})
	}
	return &out, nil
}

// values returns the contents of files by path, and their bytes, for which the owner is charged.
func (r *Renderer) values(files []provider.File, o budget.Owner) (have map[string]string, size int64, charge *budget.Charge, err error) {
	for _, f := range files {
		size += int64(f.Contents.Len())
	}
	if charge, err = r.budget.Acquire(o, budget.Answers, size); err != nil {
		return nil, 0, nil, err
	}
	have = map[string]string{}
	for _, f := range files {
		have[f.Path] = string(f.Contents.Reveal())
	}
	return have, size, charge, nil
}

// String names the file in errors.
func (f File) String() string { return fmt.Sprintf("%s %q", f.Field, params.Clip(f.Path)) }

func (f File) render(have map[string]string, l *tmpl.Limits) ([]byte, error) {
	if f.made != nil {
		return f.made.render(have)
	}
	return f.template.Render(have, l)
}

// reasoned returns an error with the reason that it has. Without one the class is wrong: it asks
// for something that cannot be made from the objects.
func reasoned(err error) error {
	if _, has := errors.AsType[*fault.Error](err); has {
		return err
	}
	return fault.New(fault.InvalidClass, "%w", err)
}
