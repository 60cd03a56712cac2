package vault

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func FuzzObjects(f *testing.F) {
	for _, seed := range []string{
		"- objectName: a\n  secretPath: kv1/a\n", "[]", "- &x {a: *x}", "- {<<: {objectName: a}, secretPath: /v1/b?c=d}",
		"- {secretPath: x, secretKeys: \"*\"}\n- {objectName: d, secretPath: x, secretKeys: {\"*\": \"*\", a.b: c}}\n- {secretPath: y, secretKeys: [e, f]}",
		"- {objectName: a/b, secretPath: x, method: post, secretArgs: {a: [1, 2.5, ~, {b: c}]}, filePermission: 0640, encoding: hex, secretKey: k, optional: true}",
		"!!binary aGVsbG8=", "- ? [a]\n  : b", "--- a\n--- b", "\x00", strings.Repeat("[", 300),
	} {
		f.Add(seed)
	}
	p := testkit.Value(New(Config{Name: NameVault}))(f)
	f.Fuzz(func(t *testing.T, text string) {
		set := params.New(map[string]string{keyObjects: text}, known(NameVault))
		listed := set.Objects(keyObjects)
		objects := newObjects(listed, p.config.MinInterval)
		s := session.NewSpec(&class.Class{}, set, p.config.DefaultInterval, fieldName, listed, objects)
		if len(set.Errs) > 0 {
			for _, e := range set.Errs {
				if !strings.HasPrefix(e.Field, "spec.parameters.objects") {
					t.Errorf("the error names %q", e.Field)
				}
			}
			return
		}
		if text != "" && (len(s.Objects) == 0 || len(s.Requests) == 0) {
			t.Error("no objects and no error")
		}
		for _, o := range s.Objects {
			if err := atomicdir.ValidatePath(o.Name); err != nil && (!o.Every || o.Name != "") {
				t.Error(err)
			}
			if q := queryOf(o.Request); strings.Contains("/"+q.path+"/", "/../") || strings.HasPrefix(q.path, "/") || o.Access.Mode > 0o777 {
				t.Errorf("a bad object got through: %+v %+v", o, q)
			}
		}
	})
}

func FuzzParameters(f *testing.F) {
	f.Add("vaultAddress", "https://a.example:8200", "roleName", "app")
	f.Add("baoAddress", "http://[::1]", "vaultAddress", "unix:///x")
	f.Add("vaultAuthMountPath", "a/b", "vaultKubernetesMountPath", "../c")
	f.Add("vaultSkipTLSVerify", "T", "sessionSharing", "pod")
	p := testkit.Value(New(Config{Name: NameOpenBao, DefaultAddress: "https://default.example"}))(f)
	f.Fuzz(func(t *testing.T, key, value, key2, value2 string) {
		raw := map[string]string{"roleName": "r", "objects": "- {objectName: a, secretPath: b}", key: value}
		raw[key2] = value2
		s, err := p.newSpec(&class.Class{Parameters: raw})
		if err != nil {
			return
		}
		l := s.login
		again, err := endpoint.ParseAddressOrSocket(l.Address.String())
		if err != nil || again != l.Address {
			t.Errorf("the address %q does not read back: %v", l.Address, err)
		}
		if strings.ContainsAny(l.Namespace+l.Role+l.Audience+l.Mount, "\r\n") || strings.Contains("/"+l.Mount+"/", "/../") {
			t.Errorf("a bad login got through: %+v", l)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"data":{"k":"v"},"metadata":{"version":3,"created_time":"2026-01-01T00:00:00Z"}}}`,
		`{"lease_id":"a","lease_duration":3600,"renewable":true,"data":{"username":"u","password":"p"}}`,
		`{"data":{"certificate":"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----","expiration":1700000000,"serial_number":"1"}}`,
		`{"data":{"ttl":1e99,"last_vault_rotation":"x"}}`, `{"data":{"ttl":-5,"last_vault_rotation":"x"}}`,
		`"-----BEGIN CERTIFICATE-----\n"`, `{"keys":[]}`, `null`, `[]`, `{}`, `{"data":{}}`, `{"data":{"data":null}}`, `{"lease_id":"x","lease_duration":-1e300,"data":1}`,
	} {
		f.Add([]byte(seed), "k.0.a")
	}
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		a, err := decodeAnswer(body, "")
		if err != nil {
			return
		}
		for _, method := range []string{"GET", "POST"} {
			r := &request{method: method, path: "database/static-creds/a"}
			is, end := classify(r.method, r.path, a, now)
			due := session.DueAt(is, now, end, time.Minute, false, 0.5)
			if is != session.Static && is != session.Once && due.Before(now) {
				t.Errorf("kind %d ending at %s is due at %s, before it was had", is, end, due)
			}
			part, err := keep(a, []string{"", key}, 0, func(int64) error { return nil })
			if err != nil {
				t.Fatalf("decoded but not kept: %v", err)
			}
			if _, err := json.Marshal(part); err != nil {
				t.Errorf("the part has no state: %v", err)
			}
			for _, k := range []string{"", key} {
				o := &session.Object{Key: k, Encoding: params.Plain, Request: &session.Request{Query: r}}
				value, err := (*Provider)(nil).File(o, a)
				if err == nil && k == "" && len(value) == 0 {
					t.Error("a whole answer is empty")
				}
				if again, err2 := (*Provider)(nil).File(o, part); string(again) != string(value) || (err == nil) != (err2 == nil) {
					t.Errorf("%q is %q, %v in all of it, and %q, %v in the part that is kept", k, value, err, again, err2)
				}
			}
			if all, kept := valuesIn(t, a), valuesIn(t, part); !maps.Equal(all, kept) {
				t.Errorf("the values %q are %q in the part that is kept", all, kept)
			}
		}
	})
}

// valuesIn are the files of all keys of an answer.
func valuesIn(t *testing.T, a *session.Answer) map[string]string {
	values, err := (*Provider)(nil).Values(a)
	if err != nil {
		t.Skip("there are too many")
	}
	out := map[string]string{}
	for key, raw := range values {
		value, err := params.Plain.FileOf(raw)
		if err != nil {
			t.Errorf("the value of %q: %v", key, err)
		}
		out[key] = string(value)
	}
	return out
}
