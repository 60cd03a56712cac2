package statedir

import (
	"bytes"
	"iter"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// A field that is added and not written would be lost by every restart.
func TestRecordKeepsEveryField(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := &volume.Record{
		Request: volume.Request{
			Identity: volume.Identity{ID: "id", Target: "/target", Pod: identity.Pod{Namespace: "shop", Name: "web", UID: "uid"}, Class: class.Ref{Namespace: "shop", Name: "secrets"}},
			Credentials: volume.Credentials{
				Tokens:  identity.Tokens{"vault": {JWT: secret.NewString("jwt"), Expires: at}},
				Secrets: map[string]secret.String{"user": secret.NewString("pass")}, TokensInSecrets: true,
			},
			GID: new(uint32(7)), SELinuxContext: "label", Ignored: []string{"x"},
		},
		Progress: volume.Progress{
			Provider: "vault", Versions: []provider.Version{{ID: "a", Version: "1"}},
			PublishedAt: at, RefreshedAt: at, Interval: time.Minute, DueAt: at, AsOf: at, Size: 4,
			EndsDueAt: at, Ends: []time.Time{at}, EndsOf: []string{"a"},
			Failures: 3, LastFailure: "down", LastReason: fault.Unavailable, FailedAt: at,
		},
		LastClass: &class.Class{Provider: "vault"},
		Leaving:   true, Warned: "uid 7", ProviderState: secret.NewBytes([]byte("state")), Stamp: clock.Stamp{Wall: at, Boot: time.Hour, BootID: "boot"},
	}
	for name, v := range fields(reflect.ValueOf(*want)) {
		if v.IsZero() {
			t.Errorf("the test does not set %s", name)
		}
	}
	parts := testkit.Value(encodeRecord(want, "file", new(bytes.Buffer)))(t)
	got, className, err := decodeRecord(bytes.Join(parts, nil))
	if err != nil || className != "file" {
		t.Fatal(err)
	}
	got.LastClass = want.LastClass // is in the file
	if !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart the record is another:\n%+v\nwant\n%+v", got, want)
	}
}

// fields are those of a struct and of the structs that it embeds.
func fields(v reflect.Value) iter.Seq2[string, reflect.Value] {
	return func(yield func(string, reflect.Value) bool) {
		for i := range v.NumField() {
			if f := v.Type().Field(i); !f.Anonymous {
				if !yield(f.Name, v.Field(i)) {
					return
				}
				continue
			}
			for name, inner := range fields(v.Field(i)) {
				if !yield(name, inner) {
					return
				}
			}
		}
	}
}

// A write that the kernel cut short goes on where it was cut.
func TestAfter(t *testing.T) {
	for n := range 8 {
		left := after([][]byte{[]byte("abc"), nil, []byte("d"), []byte("efg"), nil}, n)
		if got := string(bytes.Join(left, nil)); got != "abcdefg"[n:] || (n == 7) != (len(left) == 0) {
			t.Errorf("after %d bytes, %q is left in %d parts", n, got, len(left))
		}
	}
}

// Over a restart the time that really passed counts, and not what the wall clock
// shows. It cannot be set here, so it shows that none has passed.
func TestRecordOutlivesAStepOfTheClock(t *testing.T) {
	for passed, want := range map[time.Duration]time.Duration{0: 24 * time.Hour, 10 * time.Hour: 14 * time.Hour, 30 * time.Hour: -6 * time.Hour} {
		t.Run(passed.String(), func(t *testing.T) {
			s := testkit.Value(New(t.TempDir(), slog.New(slog.DiscardHandler)))(t)
			since, now := 100*time.Hour, time.Now()
			s.Boot = func() (time.Duration, string) { return since, "boot" }
			at := now.Add(24 * time.Hour)
			testkit.Must(t, s.Put(&volume.Record{Request: volume.Request{Identity: volume.Identity{ID: "a", Target: "/a"}}, Progress: volume.Progress{DueAt: at, Ends: []time.Time{at}}}))
			since += passed
			loaded, err := s.Load()
			if err != nil || len(loaded.Records) != 1 {
				t.Fatalf("%d records, %v", len(loaded.Records), err)
			}
			rec := loaded.Records[0]
			for what, got := range map[string]time.Time{"due": rec.DueAt, "end": rec.Ends[0]} {
				if left := got.Sub(now); (left - want).Abs() > time.Hour {
					t.Errorf("%s in %s, want %s", what, left, want)
				}
			}
		})
	}
}
