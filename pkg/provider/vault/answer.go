package vault

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

const maxLease = 100 * 365 * 24 * time.Hour

// answer is the store's answer to a read. It is never changed, so volumes
// share it.
type answer struct {
	body      []byte // as the store sent it
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

// envelope is what every answer has around its data.
type envelope struct {
	LeaseID       string          `json:"lease_id"`
	LeaseDuration json.Number     `json:"lease_duration"`
	Renewable     bool            `json:"renewable"`
	MountType     string          `json:"mount_type"`
	Warnings      []string        `json:"warnings"`
	Data          json.RawMessage `json:"data"`
	Auth          json.RawMessage `json:"auth"`
	WrapInfo      json.RawMessage `json:"wrap_info"`
}

// decodeAnswer reads the body of a successful answer.
func decodeAnswer(body []byte, contentType string) (*answer, error) {
	body = bytes.TrimSpace(body)
	var e envelope
	switch {
	case len(body) == 0:
		return nil, fault.New(fault.BadAnswer, "the answer is empty").WithHint("the path may be one that is written to only")
	case json.Unmarshal(body, &e) != nil:
		return nil, fault.New(fault.BadAnswer, "the answer is not Vault's JSON (%s, %d bytes)", describeType(contentType), len(body)).
			WithHint("is this the address of a Vault server?")
	}
	a := &answer{body: body, leaseID: e.LeaseID, renewable: e.Renewable, mountType: e.MountType, warnings: e.Warnings}
	if seconds, err := e.LeaseDuration.Float64(); err == nil {
		a.duration = seconds2duration(seconds)
	}
	if isNull(e.Data) && isNull(e.Auth) && isNull(e.WrapInfo) && !a.isBare() {
		return nil, fault.New(fault.BadAnswer, "the answer holds no data%s", also(e.Warnings))
	}
	a.kv = versionIn(e.Data)
	return a, nil
}

func also(warnings []string) string {
	if len(warnings) == 0 {
		return ""
	}
	return ": " + scrub(strings.Join(warnings, "; "), nil)
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func seconds2duration(seconds float64) time.Duration {
	if math.IsNaN(seconds) || seconds <= 0 {
		return 0
	}
	return time.Duration(min(seconds, maxLease.Seconds()) * float64(time.Second))
}

// versionIn finds the metadata that KV v2 puts beside the data.
func versionIn(data json.RawMessage) kvVersion {
	var d struct {
		Data     map[string]json.RawMessage `json:"data"`
		Metadata struct {
			Version json.Number `json:"version"`
			Created string      `json:"created_time"`
		} `json:"metadata"`
	}
	if json.Unmarshal(data, &d) != nil || d.Data == nil || d.Metadata.Created == "" {
		return kvVersion{}
	}
	if n, err := d.Metadata.Version.Int64(); err != nil || n <= 0 {
		return kvVersion{}
	}
	return kvVersion{d.Metadata.Version.String(), d.Metadata.Created}
}

func (a *answer) isBare() bool {
	var all map[string]any
	return params.Decode(a.body, &all) == nil && isBare(all)
}

// isBare tells whether an answer has no envelope, as those of some paths.
func isBare(all map[string]any) bool {
	for _, key := range []string{"request_id", "lease_id", "data", "auth", "wrap_info", "errors"} {
		if _, ok := all[key]; ok {
			return false
		}
	}
	return len(all) > 0
}

// opened is an answer ready to have values picked from.
type opened struct {
	all  map[string]any
	data map[string]any // where keys are looked up
}

// open decodes the answer. It is done anew for each payload, so that a volume
// keeps the answer once only.
func (a *answer) open() (opened, error) {
	var all map[string]any
	if params.Decode(a.body, &all) != nil {
		return opened{}, fault.New(fault.BadAnswer, "the answer cannot be decoded")
	}
	if isBare(all) {
		return opened{map[string]any{"data": all}, all}, nil
	}
	data, _ := all["data"].(map[string]any)
	if inner, ok := data["data"].(map[string]any); ok {
		return opened{all, inner}, nil
	}
	return opened{all, data}, nil
}

// value is what an object's file holds.
func (v opened) value(o *object) ([]byte, error) {
	if o.key == "" {
		whole := maps.Clone(v.all)
		delete(whole, "request_id") // new with every request, so every poll would be a change
		return params.JSON(whole)
	}
	value, ok := params.LookUp(v.data, o.key)
	if !ok {
		return nil, fault.New(fault.NotFound, "%s has no key %q; it has %s", o.request, o.key, params.KeysOf(v.data))
	}
	out, err := o.encoding.File(value)
	if err != nil {
		return nil, fault.New(fault.InvalidClass, "spec.parameters.objects[%d].encoding: the value of %q in %s is not %s: %w", o.index, o.key, o.request, o.encoding, err)
	}
	return out, nil
}

// versionOf is the store's number where there is one, else a keyed hash. The
// class and the object go into it, so that equal secrets do not show.
func versionOf(key []byte, s *spec, o *object, a *answer, value []byte) string {
	if a.kv.known() {
		return a.kv.number
	}
	mac := hmac.New(sha256.New, key)
	for _, part := range [][]byte{[]byte(s.class.String()), []byte(o.name), value} {
		fmt.Fprintf(mac, "%d:", len(part))
		mac.Write(part)
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}
