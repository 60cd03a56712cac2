package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

const maxLease = 100 * 365 * 24 * time.Hour

// What is kept of an answer. Of a small one that is all, so that classes which
// take other keys of it need not ask again: of a credential, which only a new
// one could replace, up to 64 KiB. Of a larger one it is what the objects take.
const (
	keptWhole = 2 << 10
	heldWhole = 64 << 10
)

// answer is the store's answer to a read. It is never changed, so volumes
// share it.
type answer struct {
	// body is the whole answer as the store sent it; nil where a part is kept,
	// in which "" is the key of the whole.
	body []byte
	part *params.Part

	leaseID   string
	duration  time.Duration // of the lease
	renewable bool
	mountType string
	warnings  []string
	// kv is the place of a KV v2 answer in the secret's history.
	kv kvVersion
}

// kvVersion tells two states of a KV v2 secret apart. A secret that was
// deleted for good and made anew counts from 1 again, at another time.
type kvVersion struct {
	number  string
	created string
}

func (v kvVersion) known() bool { return v.number != "" && v.number != "0" }

// What a server may have us pass on to people.
const (
	maxWarnings     = 5
	maxWarningBytes = 400
)

// decodeAnswer reads what is around the data of a successful answer.
func decodeAnswer(body []byte, contentType string) (*answer, error) {
	body = bytes.TrimSpace(body)
	var duration json.Number
	a := &answer{body: body}
	switch {
	case len(body) == 0:
		return nil, fault.New(fault.BadAnswer, "the answer is empty").WithHint("the path may be one that is written to only")
	case params.IsText(body) && json.Valid(body):
		return a, nil // as ownText made it
	case !json.Valid(body), !params.IsObject(body) && !isNull(body),
		!readMember(body, "lease_id", &a.leaseID), !readMember(body, "lease_duration", &duration),
		!readMember(body, "renewable", &a.renewable), !readMember(body, "mount_type", &a.mountType):
		return nil, fault.New(fault.BadAnswer, "the answer is not Vault's JSON (%s, %d bytes)", describeType(contentType), len(body)).
			WithHint("is this the address of a Vault server?")
	}
	if seconds, err := duration.Float64(); err == nil {
		a.duration = seconds2duration(seconds)
	}
	a.warnings = warningsIn(params.Member(body, "warnings"))
	data := params.Member(body, "data")
	if isNull(data) && isNull(params.Member(body, "auth")) && isNull(params.Member(body, "wrap_info")) && !isBare(body) {
		return nil, fault.New(fault.BadAnswer, "the answer holds no data%s", also(a.warnings))
	}
	a.kv = versionIn(data)
	return a, nil
}

// readMember reads a value that may be missing.
func readMember(body []byte, key string, into any) bool {
	raw := params.Member(body, key)
	return raw == nil || json.Unmarshal(raw, into) == nil
}

func warningsIn(list []byte) []string {
	var out []string
	for i := range maxWarnings {
		raw := params.Element(list, i)
		var text string
		if raw == nil || json.Unmarshal(raw, &text) != nil {
			break
		}
		out = append(out, strings.ToValidUTF8(text[:min(len(text), maxWarningBytes)], ""))
	}
	return out
}

func also(warnings []string) string {
	if len(warnings) == 0 {
		return ""
	}
	return ": " + scrub(strings.Join(warnings, "; "), nil)
}

func isNull(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

func seconds2duration(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	return time.Duration(min(seconds, maxLease.Seconds()) * float64(time.Second))
}

// versionIn finds the metadata that KV v2 puts beside the data.
func versionIn(data []byte) kvVersion {
	var m struct {
		Version json.Number `json:"version"`
		Created string      `json:"created_time"`
	}
	if !params.IsObject(params.Member(data, "data")) || !readMember(data, "metadata", &m) || m.Created == "" {
		return kvVersion{}
	}
	if n, err := m.Version.Int64(); err != nil || n <= 0 {
		return kvVersion{}
	}
	return kvVersion{m.Version.String(), m.Created}
}

// isBare tells whether an answer has no envelope, as those of some paths.
func isBare(body []byte) bool {
	for _, key := range []string{"request_id", "lease_id", "data", "auth", "wrap_info", "errors"} {
		if params.Member(body, key) != nil {
			return false
		}
	}
	return params.IsObject(body) && !bytes.Equal(bytes.TrimSpace(body[1:]), []byte("}"))
}

// dataIn is where keys are looked up in an answer.
func dataIn(body []byte) []byte {
	if isBare(body) {
		return body
	}
	data := params.Member(body, "data")
	if inner := params.Member(data, "data"); params.IsObject(inner) {
		return inner
	}
	return data
}

// keep is the answer for objects that take some keys of it, without the rest
// where the answer is large. room tells whether there is memory for so many
// bytes beside the answer.
func (a *answer) keep(keys []string, whole int, room func(int64) error) (*answer, error) {
	next := *a
	if len(a.body) <= whole {
		if cap(a.body) > len(a.body)+len(a.body)/4 {
			next.body = bytes.Clone(a.body)
		}
		return &next, nil
	}
	next.body = nil
	data := dataIn(a.body)
	single := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return key == "" })
	var err error
	next.part, err = params.TakePart(single, func(key string) []byte { return params.Pick(data, key) },
		func() string { return params.Keys(data) }, room)
	if err != nil || len(single) == len(keys) {
		return &next, err
	}
	if err := room(int64(next.part.Size()) + 2*params.DecodedSize(a.body)); err != nil {
		return nil, err
	}
	next.part.Taken[""], err = wholeOf(a.body)
	return &next, err
}

// wholeOf is what the file of an object without a key holds.
func wholeOf(body []byte) ([]byte, error) {
	if params.IsText(body) {
		var text string
		err := json.Unmarshal(body, &text)
		return []byte(text), err
	}
	var all map[string]any
	if err := params.Decode(body, &all); err != nil {
		return nil, fault.New(fault.BadAnswer, "the answer cannot be decoded")
	}
	if isBare(body) {
		all = map[string]any{"data": all}
	}
	delete(all, "request_id") // new with every request, so every poll would be a change
	return params.JSON(all)
}

// has tells whether the answer was looked through for the keys. One that was
// made for other objects is none for these.
func (a *answer) has(keys []string) bool {
	if a == nil || a.body != nil {
		return true
	}
	return a.part.Has(keys)
}

// size is about how many bytes of memory the answer takes.
func (a *answer) size() int64 {
	const base = 256
	size := base + len(a.body) + a.part.Size() + len(a.leaseID)
	for _, w := range a.warnings {
		size += len(w)
	}
	return int64(size)
}

// value is what an object's file holds.
func (a *answer) value(o *object) (out []byte, err error) {
	names := ""
	switch {
	case o.key != "" && params.IsText(a.body):
		return nil, fault.New(fault.NotFound, "%s answers text, which has no keys", o.request).WithHint("leave secretKey out, or read %s, which answers JSON", jsonPath(o.request.path))
	case a.body == nil:
		if out, err = a.part.File(o.key, o.encoding); out == nil {
			names = a.part.Names
		}
	case o.key == "":
		return wholeOf(a.body)
	default:
		data := dataIn(a.body)
		if raw := params.Pick(data, o.key); raw != nil {
			out, err = o.encoding.FileOf(raw)
		} else {
			names = params.Keys(data)
		}
	}
	switch {
	case err != nil:
		return nil, fault.New(fault.InvalidClass, "spec.parameters.objects[%d].encoding: the value of %q in %s is not %s: %w", o.index, o.key, o.request, o.encoding, err)
	case names != "":
		return nil, fault.New(fault.NotFound, "%s has no key %q; it has %s", o.request, o.key, names)
	}
	return out, nil
}

// versionOf is the store's number where there is one. A lease's id, which nobody
// can guess, stands for what was leased. Anything else has a slow hash, which is
// the same on every node.
func (p *Provider) versionOf(c *class.Class, o *object, a *answer, value []byte) string {
	switch {
	case a.kv.known():
		return a.kv.number
	case a.leaseID != "":
		sum := sha256.Sum256([]byte(a.leaseID))
		return base64.RawURLEncoding.EncodeToString(sum[:18])
	}
	return p.hasher.Version(c, o.name, value)
}
