package volume

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// A field that is added and not written would be lost by every restart.
func TestRecordKeepsEveryField(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	gid := 7
	want := &Record{
		ID: "id", Target: "/target", Pod: identity.Pod{Namespace: "shop", Name: "web", UID: "uid"}, Class: class.Ref{Namespace: "shop", Name: "secrets"},
		GID: &gid, SELinuxContext: "label", Tokens: identity.Tokens{"vault": {JWT: secret.NewString("jwt"), Expires: at}},
		Secrets: map[string]secret.String{"user": secret.NewString("pass")}, TokensInSecrets: true, Provider: "vault", Versions: []provider.Version{{ID: "a", Version: "1"}},
		LastClass: &class.Class{Provider: "vault"}, PublishedAt: at, RefreshedAt: at, Interval: time.Minute, DueAt: at, AsOf: at, Size: 4,
		HeldDueAt: at, HeldEnds: []time.Time{at}, Former: []Held{{Provider: "akeyless", State: secret.NewBytes([]byte("former"))}},
		Failures: 3, LastFailure: "down", Leaving: true, ProviderState: secret.NewBytes([]byte("state")), Stamp: clock.Stamp{Wall: at, Boot: time.Hour, BootID: "boot"},
	}
	for i, v := 0, reflect.ValueOf(*want); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the test does not set %s", v.Type().Field(i).Name)
		}
	}
	parts, err := encodeRecord(want, "file", new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	got, named, err := decodeRecord(bytes.Join(parts, nil))
	if err != nil || named.file != "file" || named.within != nil {
		t.Fatal(named, err)
	}
	got.LastClass = want.LastClass // is in the file
	if !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart the record is another:\n%+v\nwant\n%+v", got, want)
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
