package secretsync

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// maxData is the API server's limit for all values of a Secret, in bytes.
const maxData = 1 << 20

// wanted is one Secret, made from a volume's payload.
type wanted struct {
	class *class.Class
	entry v1.SecretObject
	data  map[string][]byte
	// labels and annotations are those of the class.
	labels, annotations map[string]string
	// certificates are the keys of data with a certificate, or its private key, that was
	// issued for the pod.
	certificates map[string]bool
	content
}

// content identifies what a Secret is made of. Its annotations say it.
type content struct {
	// digest is the same on every node: the digest of the entry, a dot, and that of the
	// contents. If certificates are among these, their digest follows after another dot.
	digest string
	// classVersion is the resourceVersion of the class.
	classVersion string
	// readAt is when the store was asked for the oldest of the contents. What was issued
	// for the pod counts only if there is nothing else: it is as old as the pod, and says
	// nothing about the age of the rest.
	readAt time.Time
	// expires is when the first certificate expires; zero for none.
	expires time.Time
}

// build makes the Secret of an entry of secretObjects. Its errors name the object or the
// key, and no content.
func (s *Syncer) build(f volume.Followed, entry v1.SecretObject, templates *rendered.SecretRenderer) (*wanted, error) {
	w := &wanted{class: f.Class, entry: entry, data: map[string][]byte{}, certificates: map[string]bool{}, labels: entry.Labels, annotations: entry.Annotations}
	w.classVersion = f.Class.ResourceVersion
	used := make([]provider.File, 0, len(entry.Data))
	for _, d := range entry.Data {
		file, err := find(f.Files, d.ObjectName)
		if err != nil {
			return nil, err
		}
		contents, err := partOf(entry.Type, d.Key, file.Contents.Reveal())
		if err != nil {
			return nil, fault.New(fault.InvalidClass, "key %q from object %q: %w", d.Key, d.ObjectName, err)
		}
		w.data[d.Key] = contents
		used = append(used, *file)
		w.noteCertificate(f.Leases, d)
	}
	var parts rendered.SecretParts
	t := templates.Of(entry.SecretName)
	if t != nil {
		rendering, err := templates.Render(t)
		if err != nil {
			return nil, err
		}
		parts = *rendering
		if err := w.add(parts); err != nil {
			return nil, err
		}
		used = append(used, f.Files...) // a template may use any file
	}
	if len(w.data) == 0 {
		return nil, fault.New(fault.InvalidClass, "neither spec.secretObjects nor spec.parameters.secretTemplates names a key for it")
	}
	if err := check(entry.Type, w.data); err != nil {
		return nil, err
	}
	w.readAt = volume.OldestRead(used, f.Leases)
	w.digest = s.digest(w, t, parts)
	return w, nil
}

// add adds rendered templates.
func (w *wanted) add(parts rendered.SecretParts) error {
	for key, contents := range parts.Data {
		part, err := partOf(w.entry.Type, key, contents)
		if err != nil {
			return fault.New(fault.InvalidClass, "key %q from its template: %w", key, err)
		}
		w.data[key] = part
	}
	w.labels, w.annotations = with(w.labels, parts.Labels), with(w.annotations, parts.Annotations)
	return nil
}

// noteCertificate records that a key has a certificate, and its end. Other credentials
// have a lease, and a newer one always replaces an older.
func (w *wanted) noteCertificate(leases []provider.Lease, d v1.SecretObjectData) {
	for _, l := range leases {
		if l.Object == d.ObjectName && l.ID == "" {
			w.certificates[d.Key] = true
			w.expires = clock.Earliest(w.expires, l.Expires)
		}
	}
}

// find finds a file by its path in the volume.
func find(files []provider.File, name string) (*provider.File, error) {
	for i := range files {
		if files[i].Path == name {
			return &files[i], nil
		}
	}
	const most = 10
	what, have := "a file in the volume, which has", []string{}
	for _, f := range files {
		if strings.HasPrefix(f.Path, name+"/") {
			have = append(have, f.Path)
		}
	}
	if len(have) > 0 { // of a whole secret
		what = "a file and not a directory, such as"
	} else {
		for _, f := range files {
			have = append(have, f.Path)
		}
	}
	slices.Sort(have)
	more := ""
	if len(have) > most {
		have, more = have[:most], fmt.Sprintf(" and %d more", len(have)-most)
	}
	return nil, fault.New(fault.InvalidClass, "no file of the volume is called %q", name).
		WithHint("objectName is the path of %s %s%s", what, cmp.Or(strings.Join(quoted(have), ", "), "none"), more)
}

func quoted(list []string) []string {
	out := make([]string, len(list))
	for i, text := range list {
		out[i] = fmt.Sprintf("%q", text)
	}
	return out
}

// digest hashes the contents slowly, with the class's UID as salt: anyone who may read the
// Secret's metadata could otherwise try passwords.
func (s *Syncer) digest(w *wanted, templates *rendered.Secret, made rendered.SecretParts) string {
	texts := rendered.Secret{}
	if templates != nil {
		texts = *templates
		texts.Field = "" // its place in the list makes no difference
	}
	entry, err := json.Marshal(struct {
		Entry     v1.SecretObject
		Owner     class.SecretOwner
		Templates rendered.Secret `json:",omitzero"`
	}{w.entry, w.class.SecretOwner, texts})
	if err != nil {
		panic("secretsync: encoding an entry: " + err.Error()) // strings always encode
	}
	sum := sha256.Sum256(entry)
	var parts, certificates [][]byte
	for _, key := range slices.Sorted(maps.Keys(w.data)) {
		if w.certificates[key] {
			certificates = append(certificates, []byte(key), w.data[key])
		} else {
			parts = append(parts, []byte(key), w.data[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(made.Labels)) { // no key of data has a space
		parts = append(parts, []byte("label "+key), []byte(made.Labels[key]))
	}
	for _, key := range slices.Sorted(maps.Keys(made.Annotations)) {
		parts = append(parts, []byte("annotation "+key), []byte(made.Annotations[key]))
	}
	digest := hex.EncodeToString(sum[:8]) + "." + s.hasher.Version(w.class, "Secret "+w.entry.SecretName, parts...)
	if len(certificates) > 0 {
		digest += "." + s.hasher.Version(w.class, "certificates of Secret "+w.entry.SecretName, certificates...)
	}
	return digest
}

// withoutCertificates returns the part of a digest with certificates that does not depend
// on them.
func withoutCertificates(digest string) string {
	return digest[:max(0, strings.LastIndexByte(digest, '.'))]
}
