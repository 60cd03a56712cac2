package plugin

import (
	"cmp"
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

// maxVersionBytes is the most that a provider may have written into every
// status for one object.
const maxVersionBytes = 4096

// judge makes a payload of an answer, or tells what is wrong with it.
//
//  1. An error code fails the mount.
//  2. There must be versions, each with an id, and nothing secret in them.
//  3. There must be files: those returned, or those from the stage.
//  4. The files must be able to make up a volume.
//
// The versions are no reason to leave out a write: there are providers that
// give every object the same version for ever. Who writes compares contents.
func (c *call) judge(m *v1alpha1.MountResponse) (*provider.Payload, error) {
	if code := m.GetError().GetCode(); code != "" {
		return nil, c.refused(reasonOfWord(code), code, "the provider reports this error code and no more")
	}
	versions, err := c.versions(m.GetObjectVersion())
	if err != nil {
		return nil, err
	}
	if len(m.GetFiles()) == 0 {
		return nil, c.fault(fault.Rejected, "it reports %d objects, and neither returns files nor wrote any where it was told to", len(versions)).WithHint("%s", cannotSee)
	}
	files, err := c.files(m.GetFiles())
	if err != nil {
		return nil, err
	}
	p := &provider.Payload{Files: files, Versions: versions}
	if c.request.Class.OnDenied == class.DeniedEmpty {
		p.Warnings = append(p.Warnings, "onDenied: empty has no effect with a provider plugin, whose PermissionDenied may as well be an outage: the files stay")
	}
	return p, nil
}

// versions are sorted, because providers range over maps, and hold each id
// once, because some name an object once per file. The last word on an id
// counts.
func (c *call) versions(list []*v1alpha1.ObjectVersion) ([]provider.Version, error) {
	if len(list) == 0 {
		return nil, c.fault(fault.BadAnswer, "its answer has no object versions")
	}
	last := make(map[string]string, len(list))
	for i, v := range list {
		if why := c.badVersion(v); why != "" {
			return nil, c.fault(fault.BadAnswer, "object_version[%d] of its answer %s", i, why)
		}
		last[v.GetId()] = v.GetVersion()
	}
	out := make([]provider.Version, 0, len(last))
	for id, version := range last {
		out = append(out, provider.Version{ID: id, Version: version})
	}
	slices.SortFunc(out, func(a, b provider.Version) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// badVersion keeps out what must not get into a status that others read.
func (c *call) badVersion(v *v1alpha1.ObjectVersion) string {
	switch text := v.GetId() + v.GetVersion(); {
	case v.GetId() == "":
		return "has no id"
	case v.GetVersion() == "":
		return "has no version"
	case len(text) > maxVersionBytes:
		return "is too long"
	case strings.ContainsFunc(text, unicode.IsControl):
		return "has a control character"
	case c.scrub.holdsToken(v.GetId()), c.scrub.holdsToken(v.GetVersion()):
		return "holds a service account token"
	}
	return ""
}

func (c *call) files(list []*v1alpha1.File) ([]provider.File, error) {
	out := make([]provider.File, len(list))
	checked := make([]atomicdir.File, len(list))
	for i, f := range list {
		// A negative mode has high bits as an unsigned one, and is refused
		// for them.
		mode := fs.FileMode(uint32(f.GetMode()))
		if mode&^fs.ModePerm != 0 {
			return nil, c.fault(fault.BadAnswer, "files[%d] (%s) of its answer has the mode %#o, which is not within 0777",
				i, c.path(f.GetPath()), f.GetMode())
		}
		out[i] = provider.File{Path: f.GetPath(), Mode: mode, Contents: secret.NewBytes(f.GetContents())}
		checked[i] = atomicdir.File{Path: f.GetPath(), Mode: mode}
	}
	if err := atomicdir.ValidateFiles(checked); err != nil {
		return nil, c.fault(fault.BadAnswer, "its answer cannot be a volume: %s", c.scrub.text(err.Error()))
	}
	return out, nil
}

// path is a provider's path in an error.
func (c *call) path(p string) string {
	const most = 256
	return oneLine(c.scrub.text(p), most)
}

// reasonOfWord is for the error codes in an answer, which are words of the
// provider's choosing. Those that are gRPC's mean the same here.
func reasonOfWord(word string) fault.Reason {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if strings.EqualFold(plain(word), code.String()) {
			return reasonOf(code)
		}
	}
	return fault.Rejected
}

// plain drops what NOT_FOUND has and NotFound has not.
func plain(word string) string { return strings.NewReplacer("_", "", "-", "", " ", "").Replace(word) }
