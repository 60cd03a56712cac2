package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Limits of the server's texts for users.
const (
	maxWarnings     = 5
	maxWarningBytes = 400
)

// decodeAnswer reads the envelope of a successful answer.
func decodeAnswer(body []byte, contentType string) (*session.Answer, error) {
	body = bytes.TrimSpace(body)
	var duration json.Number
	a := &session.Answer{Body: body}
	switch {
	case len(body) == 0, string(body) == `""`:
		return nil, fault.New(fault.BadAnswer, "the answer is empty").WithHint("the path may be one that is written to only")
	case params.IsText(body) && json.Valid(body):
		return a, nil // ownText has made it
	case !json.Valid(body), !params.IsObject(body) && !isNull(body),
		!readMember(body, "lease_id", &a.LeaseID), !readMember(body, "lease_duration", &duration),
		!readMember(body, "renewable", &a.Renewable), !readMember(body, "mount_type", &a.Type):
		return nil, fault.New(fault.BadAnswer, "the answer is not Vault's JSON (%s)", shape(contentType, body)).
			WithHint("is this the address of a Vault server?")
	}
	if seconds, err := duration.Float64(); err == nil {
		a.Duration = seconds2duration(seconds)
	}
	a.Warnings = warningsIn(params.Member(body, "warnings"))
	data := params.Member(body, "data")
	if isNull(data) && isNull(params.Member(body, "auth")) && isNull(params.Member(body, "wrap_info")) && !isBare(body) {
		return nil, fault.New(fault.BadAnswer, "the answer holds no data%s", also(a.Warnings))
	}
	a.Revision = versionIn(data)
	return a, nil
}

func warningsIn(list []byte) []string {
	var out []string
	for i := range maxWarnings {
		raw := params.Element(list, i)
		var text string
		if raw == nil || json.Unmarshal(raw, &text) != nil {
			break
		}
		out = append(out, scrub(strings.ToValidUTF8(text[:min(len(text), maxWarningBytes)], ""), nil))
	}
	return out
}

func also(warnings []string) string {
	if len(warnings) == 0 {
		return ""
	}
	return ": " + strings.Join(warnings, "; ")
}

// versionIn finds the metadata that KV v2 puts next to the data.
func versionIn(data []byte) session.Revision {
	var m struct {
		Version json.Number `json:"version"`
		Created string      `json:"created_time"`
	}
	if !params.IsObject(params.Member(data, "data")) || !readMember(data, "metadata", &m) || m.Created == "" {
		return session.Revision{}
	}
	if n, err := m.Version.Int64(); err != nil || n <= 0 {
		return session.Revision{}
	}
	return session.Revision{Number: m.Version.String(), Changed: m.Created}
}

// isBare reports whether an answer has no envelope.
func isBare(body []byte) bool {
	for _, key := range []string{"request_id", "lease_id", "data", "auth", "wrap_info", "errors"} {
		if params.Member(body, key) != nil {
			return false
		}
	}
	return params.IsObject(body) && !bytes.Equal(bytes.TrimSpace(body[1:]), []byte("}"))
}

// dataIn returns the secret of an answer: the whole body if it has no envelope, or the
// envelope's data, without the second envelope that KV v2 adds, which has metadata beside
// the data.
func dataIn(body []byte) []byte {
	if isBare(body) {
		return body
	}
	data := params.Member(body, "data")
	if inner := params.Member(data, "data"); params.IsObject(inner) && params.IsObject(params.Member(data, "metadata")) {
		return inner
	}
	return data
}

// pickIn returns a function that returns the value of a key of an answer's secret, nil if it
// has none. If the secret is not KV v2's and has an object under the key data, the keys of
// that object come first: Vault's own provider knows only those, for any engine, and its
// classes must read the same here.
func pickIn(body []byte) func(key string) []byte {
	all := dataIn(body)
	inner := params.Member(params.Member(body, "data"), "data")
	return func(key string) []byte {
		if params.IsObject(inner) {
			if raw := params.Pick(inner, key); raw != nil {
				return raw
			}
		}
		return params.Pick(all, key)
	}
}

// keep returns an answer for objects with some keys, without the other keys if it is
// large. room reports whether there is memory for so many bytes besides the answer.
func keep(a *session.Answer, keys []string, whole int, room func(int64) error) (*session.Answer, error) {
	next := *a
	if len(a.Body) <= whole || params.IsText(a.Body) { // a text has no keys
		if cap(a.Body) > len(a.Body)+len(a.Body)/4 {
			next.Body = bytes.Clone(a.Body)
		}
		return &next, nil
	}
	next.Body = nil
	single := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return key == "" })
	var err error
	next.Part, err = params.TakePart(single, pickIn(a.Body), func() string { return namesOf(a.Body) }, room)
	if err != nil || len(single) == len(keys) {
		return &next, err
	}
	if err := room(int64(next.Part.Size()) + 2*params.DecodedSize(a.Body)); err != nil {
		return nil, err
	}
	next.Part.Taken[""], err = wholeOf(a.Body)
	return &next, err
}

// wholeOf returns the content of the file of an object without a key.
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
	delete(all, "request_id") // it differs in each answer, so every poll would be a change
	return params.JSON(all)
}

// namesOf lists the keys of an answer's secret, for an error about a missing one.
func namesOf(body []byte) string { return "; it has " + params.Keys(dataIn(body)) }

// File implements session.Store.
func (p *Provider) File(o *session.Object, a *session.Answer) ([]byte, error) {
	switch r := queryOf(o.Request); {
	case o.Key != "" && params.IsText(a.Body):
		return nil, fault.New(fault.NotFound, "%s answers text, which has no keys", r).WithHint("leave secretKey out, or read %s, which answers JSON", jsonPath(r.path))
	case o.Key == "" && a.Part == nil:
		return wholeOf(a.Body)
	}
	return o.Content(a, pickIn(a.Body), func() string { return namesOf(a.Body) })
}

// Values implements session.Store: the keys of the data, without Vault's envelope.
func (p *Provider) Values(a *session.Answer) (map[string][]byte, error) {
	if a.Body == nil {
		return params.Values(dataIn(a.Part.Taken[""]))
	}
	return params.Values(dataIn(a.Body))
}

// Version implements session.Store: the store's number if there is one. For a leased
// credential it is the lease's id, which cannot be guessed. Anything else has a slow hash,
// which is the same on every node.
func (p *Provider) Version(_ *session.Object, a *session.Answer, hash func() string) string {
	switch {
	case a.Revision.Known():
		return a.Revision.Number
	case a.LeaseID != "":
		sum := sha256.Sum256([]byte(a.LeaseID))
		return base64.RawURLEncoding.EncodeToString(sum[:18])
	}
	return hash()
}
