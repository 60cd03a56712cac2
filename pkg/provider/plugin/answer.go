package plugin

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// maxVersionBytes bounds the text that a provider can make the driver write into every status for
// one object.
const maxVersionBytes = 4096

// payload makes a payload from an answer, or says what is wrong with the answer.
//
//  1. An error code fails the mount.
//  2. There must be files: those returned, or those from the stage.
//  3. The files must be able to make up a volume.
//  4. There must be versions without secrets in them. A hash of the files replaces
//     an empty version.
//
// The driver does not skip a write because of equal versions, since some providers give every
// object the same version for ever. It compares the contents.
func (c *call) payload(m *v1alpha1.MountResponse) (*provider.Payload, error) {
	if code := m.GetError().GetCode(); code != "" {
		return nil, c.refused(reasonOfWord(code), code, "the provider reports this error code and no more")
	}
	if len(m.GetObjectVersion()) == 0 {
		return nil, c.fault(fault.BadAnswer, "its answer has no object versions")
	}
	if len(m.GetFiles()) == 0 {
		return nil, c.fault(fault.Rejected, "it reports %d objects, and neither returns files nor wrote any where it was told to", len(m.GetObjectVersion())).WithHint("%s", cannotSee)
	}
	p := &provider.Payload{SameFilesSameVersions: true}
	list := c.once(m.GetFiles(), p)
	var err error
	if p.Files, err = c.files(list); err != nil {
		return nil, err
	}
	if p.Versions, err = c.versions(m.GetObjectVersion(), p.Files); err != nil {
		return nil, err
	}
	if c.request.Class.OnDenied == class.DeniedEmpty {
		p.Warnings = append(p.Warnings, "onDenied: empty has no effect with a provider plugin, whose PermissionDenied may as well be an outage: the files stay")
	}
	return p, nil
}

// once returns one file for each path. Providers that list an object twice return its file twice.
// If the two differ the last one counts, as with the Secrets Store CSI driver, and the payload has
// a warning for the class's author.
func (c *call) once(list []*v1alpha1.File, p *provider.Payload) []*v1alpha1.File {
	last := make(map[string]int, len(list))
	out := make([]*v1alpha1.File, 0, len(list))
	for _, f := range list {
		i, duplicate := last[f.GetPath()]
		if !duplicate {
			last[f.GetPath()] = len(out)
			out = append(out, f)
			continue
		}
		if !bytes.Equal(out[i].GetContents(), f.GetContents()) || out[i].GetMode() != f.GetMode() {
			p.Warnings = append(p.Warnings, fmt.Sprintf("provider %q returns the file %q twice, with other contents or another mode: the last one counts; does the class list two objects under one file name?", c.provider, c.path(f.GetPath())))
		}
		out[i] = f
	}
	return out
}

// versions returns the versions sorted, because providers iterate over maps, and with each id once,
// because some providers repeat an object for each file. The last version of an id counts.
func (c *call) versions(list []*v1alpha1.ObjectVersion, files []provider.File) ([]provider.Version, error) {
	last := make(map[string]string, len(list))
	for i, v := range list {
		if why := c.badVersion(v); why != "" {
			return nil, c.fault(fault.BadAnswer, "object_version[%d] of its answer %s", i, why)
		}
		id, version := cmp.Or(v.GetId(), c.provider), v.GetVersion()
		if version == "" {
			version = c.hashOf(id, files)
		}
		last[id] = version
	}
	out := make([]provider.Version, 0, len(last))
	for id, version := range last {
		out = append(out, provider.Version{ID: id, Version: version})
	}
	slices.SortFunc(out, func(a, b provider.Version) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// hashOf returns a version of all files, because the answer does not say which files belong to the
// object.
func (c *call) hashOf(id string, files []provider.File) string {
	files = slices.SortedFunc(slices.Values(files), func(a, b provider.File) int { return cmp.Compare(a.Path, b.Path) })
	parts := make([][]byte, 0, 2*len(files))
	for _, f := range files {
		parts = append(parts, []byte(f.Path), f.Contents.Reveal())
	}
	return c.limits.hasher.Version(c.request.Class, id, parts...)
}

// badVersion refuses a version that must not be in a status, which others can read.
func (c *call) badVersion(v *v1alpha1.ObjectVersion) string {
	switch text := v.GetId() + v.GetVersion(); {
	case len(text) > maxVersionBytes:
		return "is too long"
	case strings.ContainsFunc(text, unicode.IsControl):
		return "has a control character"
	case c.holdsToken(v.GetId()), c.holdsToken(v.GetVersion()):
		return "holds a service account token"
	}
	return ""
}

func (c *call) files(list []*v1alpha1.File) ([]provider.File, error) {
	out := make([]provider.File, len(list))
	checked := make([]atomicdir.File, len(list))
	for i, f := range list {
		// A negative mode has high bits set as an unsigned number, and is refused for them.
		mode := fs.FileMode(uint32(f.GetMode()))
		if mode&^fs.ModePerm != 0 {
			return nil, c.fault(fault.BadAnswer, "files[%d] (%s) of its answer has the mode %#o, which is not within 0777",
				i, c.path(f.GetPath()), f.GetMode())
		}
		out[i] = provider.File{Path: f.GetPath(), Mode: mode, Contents: secret.NewBytes(f.GetContents())}
		checked[i] = atomicdir.File{Path: f.GetPath(), Mode: mode}
	}
	if err := atomicdir.ValidateFiles(checked); err != nil {
		return nil, c.fault(fault.BadAnswer, "its answer cannot be a volume: %s", c.scrub(err.Error()))
	}
	return out, nil
}

// path is a provider's path, made safe for an error.
func (c *call) path(p string) string {
	const most = 256
	return secret.OneLine(c.scrub(p), most)
}

// reasonOfWord maps the error codes in an answer, which each provider chooses freely. Those with
// the name of a gRPC code mean the same as that code.
func reasonOfWord(word string) fault.Reason {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if strings.EqualFold(plain(word), code.String()) {
			return reasonOf(code)
		}
	}
	return fault.Rejected
}

// plain removes the separators, so that NOT_FOUND and NotFound compare equal.
func plain(word string) string { return strings.NewReplacer("_", "", "-", "", " ", "").Replace(word) }
