package csi

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// maxPath is PATH_MAX less the terminating NUL.
const maxPath = 4095

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidArgument, format, args...)
}

// checkPublish checks the fields that every publish must have. Of the pod author's
// volumeAttributes the driver reads only the class: they must not be able to override it.
func checkPublish(r *csipb.NodePublishVolumeRequest) error {
	attributes := r.GetVolumeContext()
	if err := checkVolume(r.GetVolumeId(), "target_path", r.GetTargetPath()); err != nil {
		return err
	}
	switch {
	case r.GetVolumeCapability() == nil:
		return invalid("volume_capability is missing")
	case r.GetVolumeCapability().GetBlock() != nil:
		return invalid("volume_capability: block volumes are not supported, secrets are files")
	case !r.GetReadonly():
		return invalid("readonly is false").WithHint("set readOnly: true in the pod's csi volume")
	case attributes[identity.EphemeralKey] == "false":
		return invalid("volume_context[%q] is false: only inline volumes of a pod are supported", identity.EphemeralKey)
	case attributes[identity.ClassKey] == "":
		err := invalid("volume_context[%q] is missing", identity.ClassKey)
		if found := class.Near(identity.ClassKey, ignored(attributes)); found != "" {
			return err.WithHint("the pod's csi volume has volumeAttributes.%s: write secretProviderClass", found)
		}
		return err.WithHint("set volumeAttributes.secretProviderClass in the pod's csi volume")
	}
	for _, key := range []string{identity.PodNameKey, identity.PodNamespaceKey, identity.PodUIDKey, identity.ServiceAccountKey} {
		if attributes[key] == "" {
			return invalid("volume_context[%q] is missing", key).WithHint("set podInfoOnMount: true in the CSIDriver object")
		}
	}
	// The API client puts these names into paths.
	for _, key := range []string{identity.ClassKey, identity.PodNamespaceKey} {
		if errs := validation.IsDNS1123Subdomain(attributes[key]); len(errs) > 0 {
			return invalid("volume_context[%q] is %q: %s", key, attributes[key], strings.Join(errs, "; "))
		}
	}
	return checkPath("target_path", r.GetTargetPath())
}

func checkUnpublish(r *csipb.NodeUnpublishVolumeRequest) error {
	if err := checkVolume(r.GetVolumeId(), "target_path", r.GetTargetPath()); err != nil {
		return err
	}
	return checkPath("target_path", r.GetTargetPath())
}

func checkVolume(id, field, path string) error {
	switch {
	case id == "":
		return invalid("volume_id is missing")
	case path == "":
		return invalid("%s is missing", field)
	}
	return nil
}

func checkPath(field, path string) error {
	switch {
	case strings.ContainsRune(path, 0):
		return invalid("%s %q has a NUL byte", field, path)
	case len(path) > maxPath:
		return invalid("%s is %d bytes long, the limit is %d", field, len(path), maxPath)
	case !filepath.IsAbs(path):
		return invalid("%s %q is not absolute", field, path)
	case filepath.Clean(path) != path:
		return invalid("%s %q is not clean, as %q is", field, path, filepath.Clean(path))
	case path == "/":
		return invalid("%s is the root directory", field)
	}
	return nil
}

// publishRequest validates the call and converts it to a volume.Request.
func publishRequest(r *csipb.NodePublishVolumeRequest) (volume.Request, error) {
	if err := checkPublish(r); err != nil {
		return volume.Request{}, err
	}
	credentials, err := credentialsOf(r)
	if err != nil {
		return volume.Request{}, err
	}
	mount := r.GetVolumeCapability().GetMount()
	gid, err := parseGroup(mount.GetVolumeMountGroup())
	if err != nil {
		return volume.Request{}, err
	}
	label, err := parseFlags(mount.GetMountFlags())
	if err != nil {
		return volume.Request{}, err
	}
	a := r.GetVolumeContext()
	return volume.Request{
		Identity: volume.Identity{
			ID:     r.GetVolumeId(),
			Target: r.GetTargetPath(),
			Pod: identity.Pod{
				Namespace: a[identity.PodNamespaceKey], Name: a[identity.PodNameKey], UID: a[identity.PodUIDKey], ServiceAccount: a[identity.ServiceAccountKey],
			},
			Class: class.Ref{Namespace: a[identity.PodNamespaceKey], Name: a[identity.ClassKey]},
		},
		Credentials:    credentials,
		GID:            gid,
		SELinuxContext: label,
		Ignored:        ignored(a),
	}, nil
}

const (
	// kubelets is the prefix of the keys that kubelet adds.
	kubelets = "csi.storage.k8s.io/"
	// maxIgnored and maxIgnoredBytes bound how many ignored attributes an answer lists, and their
	// length in bytes.
	maxIgnored      = 20
	maxIgnoredBytes = 64
)

// ignored lists the pod author's attributes that the driver does not read, sorted.
func ignored(attributes map[string]string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if name != identity.ClassKey && !strings.HasPrefix(name, kubelets) && len(names) < maxIgnored {
			names = append(names, strings.ToValidUTF8(name[:min(len(name), maxIgnoredBytes)], ""))
		}
	}
	return names
}

// credentialsOf separates the service account tokens from the nodePublishSecretRef. Kubernetes
// 1.35 and later pass the tokens in secrets, earlier releases in volume_context.
func credentialsOf(r *csipb.NodePublishVolumeRequest) (volume.Credentials, error) {
	text, inSecrets := r.GetSecrets()[identity.TokensKey]
	if !inSecrets {
		text = r.GetVolumeContext()[identity.TokensKey]
	}
	tokens, err := identity.ParseTokens(text)
	if err != nil {
		return volume.Credentials{}, err
	}
	secrets := make(map[string]secret.String, len(r.GetSecrets()))
	for k, v := range r.GetSecrets() {
		if k != identity.TokensKey {
			secrets[k] = secret.NewString(v)
		}
	}
	return volume.Credentials{Tokens: tokens, TokensInSecrets: inSecrets, Secrets: secrets}, nil
}

func parseGroup(text string) (*uint32, error) {
	if text == "" {
		return nil, nil
	}
	gid, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return nil, invalid("volume_capability.mount.volume_mount_group %q is not a group id", text)
	}
	return new(uint32(gid)), nil
}

// parseFlags returns the SELinux label that kubelet passes. It accepts flags that every mount of
// the driver has, and refuses all others.
func parseFlags(flags []string) (label string, err error) {
	for i, flag := range flags {
		if value, ok := strings.CutPrefix(flag, "context="); ok {
			label = strings.Trim(value, `"`)
			continue
		}
		switch flag {
		case "ro", "nosuid", "nodev", "noexec":
		default:
			return "", invalid("volume_capability.mount.mount_flags[%d] %q is not supported: only context=<SELinux label> is", i, flag)
		}
	}
	return label, nil
}
