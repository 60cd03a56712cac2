package audit

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func encoded(l *line) []byte {
	var b bytes.Buffer
	l.encode(&b)
	return b.Bytes()
}

// web is an outcome on the volume of the pod shop/web-0.
func web(kind volume.Kind, err error) volume.Outcome {
	return volume.Outcome{
		Kind: kind,
		Identity: volume.Identity{
			ID: "csi-0f1e2d", Target: "/pods/web-0",
			Pod:   identity.Pod{Namespace: "shop", Name: "web-0", UID: "c1a8f3f0-6a55-4f0e-9d5b-1f6c0f0f7a11", ServiceAccount: "web"},
			Class: class.Ref{Namespace: "shop", Name: "web-secrets"},
		},
		ClassVersion: "81732", Provider: "vault", Err: err,
		Tokens: []identity.AudienceClaims{{Audience: "vault", Claims: identity.Claims{
			ID: "2d0f3c6a-7c1e-4a54-8f2e-5b8f0a1b2c3d", ServiceAccountUID: "5e0c2f4e-8f0f-4a9e-b1a3-0c3b6c1d2e3f",
		}}},
	}
}

func examples() []*line {
	at := time.Date(2026, 3, 1, 10, 30, 0, 125e6, time.FixedZone("CET", 3600))
	published := web(volume.Published, nil)
	published.Versions = []provider.Version{{ID: "db-password", Version: "7"}}
	published.Changed, published.Took, published.Asked = true, 14200*time.Microsecond, []string{"9f86d081884c7d659a2feaa0c55ad015"}
	denied := web(volume.Refreshed, fault.New(fault.Denied, "the volume is empty, as the class's onDenied asks: reading secret/data/web/db: permission denied"))
	denied.Changed, denied.Emptied, denied.Failures, denied.Took = true, true, 1, 6*time.Millisecond
	denied.Asked = []string{"4e07408562bedb8b60ce05c1decfe3ad"}
	return []*line{lineOf(at, published), lineOf(at.Add(2*time.Minute-125*time.Millisecond), denied)}
}

func lineOf(at time.Time, o volume.Outcome) *line {
	l := &line{}
	l.begin("node-1", at)
	l.fill(&o)
	return l
}

// The documentation's examples are what the driver writes.
func TestDocumentedExamples(t *testing.T) {
	_, text, _ := strings.Cut(page(t), "<!-- examples:")
	text, _, ok := strings.Cut(text, "<!-- end of examples -->")
	if !ok {
		t.Fatal("docs/audit.md has no place for the examples")
	}
	var want []string
	head := chain.Head{ID: "6f1c0a9d2b7e4c35"}
	for _, l := range examples() {
		var linked []byte
		linked, head = head.Add(nil, encoded(l))
		want = append(want, string(linked))
	}
	audittest.Check(t, []byte(strings.Join(want, "")))
	var got []string
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(text, -1) {
		got = append(got, m[1])
	}
	testkit.Equal(t, "docs/audit.md, and what the driver writes", got, want)
}

// The documentation names the fields and events that there are, and no others.
func TestDocumentedFields(t *testing.T) {
	text := page(t)
	_, fields, _ := strings.Cut(text, "## Fields")
	fields, _, _ = strings.Cut(fields, "\n## ")
	want := fieldsOf(reflect.TypeFor[line](), "")
	testkit.Equal(t, "fields in docs/audit.md, and in the code", firstColumn(fields), want)
	_, events, _ := strings.Cut(text, "| Event |")
	kinds := []volume.Kind{
		volume.Published, volume.Refreshed, volume.Unpublished, volume.Released, volume.Recovered, volume.SetAside,
		provider.AccessLogin, provider.AccessRenew, lost,
	}
	var named []volume.Kind
	for _, event := range firstColumn(strings.Split(events, "\n\n")[0]) {
		named = append(named, volume.Kind(event))
	}
	testkit.Equal(t, "events in docs/audit.md, and in the code", named, kinds)
}

func page(t *testing.T) string {
	t.Helper()
	text := testkit.Value(os.ReadFile("../../docs/audit.md"))(t)
	return string(text)
}

func firstColumn(text string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

func fieldsOf(t reflect.Type, prefix string) []string {
	var out []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		name = prefix + name
		if !f.IsExported() {
			continue
		}
		below := f.Type
		if below.Kind() == reflect.Pointer {
			below = below.Elem()
		}
		if below.Kind() == reflect.Slice {
			name, below = name+"[]", below.Elem()
		}
		if below.Kind() == reflect.Struct {
			out = append(out, fieldsOf(below, name+".")...)
			continue
		}
		out = append(out, name)
	}
	return out
}

// The schema has the fields that there are, and no others.
func TestSchemaKnowsEveryField(t *testing.T) {
	text := testkit.Value(os.ReadFile(audittest.Path()))(t)
	var root schema
	testkit.Must(t, json.Unmarshal(text, &root))
	driver := root.Defs["driver"]
	got := slices.Concat(root.fields(""), driver.fields(""), root.Defs["outcome"].fields(""))
	want := fieldsOf(reflect.TypeFor[line](), "")
	slices.Sort(got)
	slices.Sort(want)
	testkit.Equal(t, "fields in docs/audit.schema.json, and in the code", got, want)
	var reasons []string
	for _, r := range fault.Reasons() {
		reasons = append(reasons, string(r))
	}
	testkit.Equal(t, "reasons in docs/audit.schema.json, and in the code", root.Defs["reason"].Enum, reasons)
}

func TestSchemaRefuses(t *testing.T) {
	good, _ := chain.Head{ID: "6f1c0a9d2b7e4c35"}.Add(nil, encoded(examples()[1]))
	testkit.Must(t, audittest.Valid(good))
	for old, by := range map[string]string{
		`"node":"node-1",`:                             ``,
		`"time":"2026-03-01T09:32:00.000Z"`:            `"time":"2026-03-01T09:32:00Z"`,
		`"event":"refresh"`:                            `"event":"look"`,
		`"event":"refresh","outcome"`:                  `"event":"login","outcome"`,
		`"outcome":"failure"`:                          `"outcome":"success"`,
		`"reason":"Denied",`:                           ``,
		`"reason":"Denied"`:                            `"reason":"Tired"`,
		`"uid":"c1a8f3f0-6a55-4f0e-9d5b-1f6c0f0f7a11"`: `"uid":7`,
		`"volume":"csi-0f1e2d",`:                       ``,
		`"changed":true`:                               `"changed":false`,
		`"correlationIDs":[`:                           `"correlationIDs":["",`,
		`"jti":`:                                       `"token":`,
		`"chain":`:                                     `"chained":`,
		`"seq":1`:                                      `"seq":0`,
		`"id":"6f1c0a9d2b7e4c35"`:                      `"id":"6f1c"`,
	} {
		bad := strings.Replace(string(good), old, by, 1)
		if bad == string(good) {
			t.Errorf("%s is not in the line", old)
		}
		if audittest.Valid([]byte(bad)) == nil {
			t.Errorf("the schema takes %s for %s", by, old)
		}
	}
}

// schema is the part of a JSON Schema that names fields.
type schema struct {
	Properties map[string]json.RawMessage
	Items      *schema
	Enum       []string
	Defs       map[string]*schema `json:"$defs"`
}

func (s *schema) fields(prefix string) (out []string) {
	for name, text := range s.Properties {
		var below schema
		_ = json.Unmarshal(text, &below) // one that is no object has no fields below
		name = prefix + name
		if below.Items != nil {
			name, below = name+"[]", *below.Items
		}
		if len(below.Properties) == 0 {
			out = append(out, name)
		}
		out = append(out, below.fields(name+".")...)
	}
	return out
}

// parse reads a line as its readers do.
func parse(t *testing.T, text []byte) line {
	t.Helper()
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return l
}

func TestEveryKind(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name  string
		o     volume.Outcome
		check func(l line) bool
	}{
		{"last good", func() volume.Outcome {
			o := web(volume.Published, nil)
			o.AsOf = now.Add(-90 * time.Second)
			return o
		}(), func(l line) bool { return l.LastGood.AgeSeconds == 90 && l.Outcome == "success" }},
		{"the second address", func() volume.Outcome {
			o := web(volume.Refreshed, nil)
			o.AnsweredBy = "https://second:8200"
			return o
		}(), func(l line) bool { return l.AnsweredBy == "https://second:8200" }},
		{"the end of an episode", func() volume.Outcome {
			o := web(volume.Refreshed, nil)
			o.Failures = 7
			return o
		}(), func(l line) bool { return l.Failures == 7 && l.Outcome == "success" && l.Reason == "" }},
		{"a release that was given up", web(volume.Released, fault.New(fault.Unavailable, "sealed")), func(l line) bool {
			return l.Event == "release" && l.Outcome == "failure" && l.Reason == "Unavailable" && l.Error == "sealed"
		}},
		{"a record that was set aside", volume.Outcome{Kind: volume.SetAside, SetAside: "/x.corrupt", Err: fault.New(fault.State, "bad")}, func(l line) bool {
			return l.RecordSetAside == "/x.corrupt" && l.Pod == (pod{}) && l.Class == (classRef{}) && l.ServiceAccount == (account{}) && l.Reason == "State"
		}},
		{"a token that is not of Kubernetes' making", func() volume.Outcome {
			o := web(volume.Published, nil)
			o.Tokens = []identity.AudienceClaims{{Audience: "vault"}}
			return o
		}(), func(l line) bool { return l.Tokens == nil && l.ServiceAccount == (account{Name: "web"}) }},
		{"words of two lines, and of markup", web(volume.Published, fault.New(fault.Rejected, "a\nb <c> \xff")), func(l line) bool {
			return l.Error == "a\nb <c> \ufffd"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := encoded(lineOf(now, tc.o))
			if strings.Count(string(text), "\n") != 1 || text[len(text)-1] != '\n' {
				t.Errorf("not one line: %q", text)
			}
			if l := parse(t, text); !tc.check(l) || l.Node != "node-1" || l.APIVersion != apiVersion {
				t.Errorf("the line is %s", text)
			}
		})
	}
}

// TestSize: the budgets of namespaces count bytes of lines before these are encoded.
func TestSize(t *testing.T) {
	lines := examples()
	long := *lines[0]
	long.Error = strings.Repeat("x", maxErrorBytes)
	for range 1000 {
		long.Objects = append(long.Objects, object{"team/database/password", "12"})
		long.CorrelationIDs = append(long.CorrelationIDs, "0af76519-16cd-43dd-8448-eb211c80319c")
		long.Tokens = append(long.Tokens, token{"vault", "0af76519-16cd-43dd-8448-eb211c80319c"})
	}
	for _, l := range append(lines, &long) {
		if size, n := l.size(), len(encoded(l)); size < n || size > n+900 {
			t.Errorf("%d bytes, of which %d are counted: %.200s", n, size, encoded(l))
		}
	}
}
