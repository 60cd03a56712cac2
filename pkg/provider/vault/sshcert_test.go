package vault

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// sshCertificate has the form of one of OpenSSH's, with fields for its key.
func sshCertificate(kind string, fields int, before uint64) string {
	var b []byte
	add := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	add(kind)
	add("nonce")
	for range fields {
		add("key")
	}
	b = binary.BigEndian.AppendUint64(b, 7)
	b = binary.BigEndian.AppendUint32(b, 1)
	add("name")
	add("")
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, before)
	return kind + " " + base64.StdEncoding.EncodeToString(b) + " comment\n"
}

func TestValidBefore(t *testing.T) {
	const end = 1767229200
	for kind, fields := range map[string]int{
		"ssh-ed25519-cert-v01@openssh.com": 1, "ssh-rsa-cert-v01@openssh.com": 2, "ecdsa-sha2-nistp256-cert-v01@openssh.com": 2,
		"sk-ssh-ed25519-cert-v01@openssh.com": 2, "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": 3, "ssh-dss-cert-v01@openssh.com": 4,
	} {
		text := sshCertificate(kind, fields, end)
		if got := validBefore(text); got.Unix() != end {
			t.Errorf("%s ends at %s", kind, got)
		}
		if got := validBefore(sshCertificate(kind, fields, math.MaxUint64)); !got.IsZero() {
			t.Errorf("%s has no end, not %s", kind, got)
		}
		raw, _ := base64.StdEncoding.DecodeString(strings.Fields(text)[1])
		for n := range raw {
			if got := validBefore(kind + " " + base64.StdEncoding.EncodeToString(raw[:n])); !got.IsZero() {
				t.Errorf("%d bytes of %s end at %s", n, kind, got)
			}
		}
	}
	for _, text := range []string{"", "ssh-ed25519", "ssh-ed25519 !", sshCertificate("ssh-ed25519", 1, end)} {
		if got := validBefore(text); !got.IsZero() {
			t.Errorf("%q ends at %s", text, got)
		}
	}
}

func FuzzValidBefore(f *testing.F) {
	f.Add(sshCertificate("ssh-ed25519-cert-v01@openssh.com", 1, 1767229200))
	f.Fuzz(func(t *testing.T, text string) {
		if end := validBefore(text); end.Year() > 9999 {
			t.Errorf("ends at %s", end)
		}
	})
}

// TestOverdue has static roles at the moment of their schedule.
func TestOverdue(t *testing.T) {
	at := func(d time.Duration) *session.Reading {
		return &session.Reading{Kind: session.Static, At: after(d), End: after(d)}
	}
	announced := &session.Reading{Kind: session.Static, At: after(-time.Hour), End: epoch}
	for _, tc := range []struct {
		name    string
		before  *session.Reading
		now     *session.Reading
		rotated time.Time
		want    bool
	}{
		{"the password is the old one", announced, at(time.Second), after(-time.Hour), true},
		{"by hand before the moment", announced, at(time.Second), after(-time.Minute), true},
		{"rotated", announced, at(time.Second), epoch, false},
		{"rotated, rounded", announced, at(time.Second), after(-time.Second), false},
		{"before the moment", announced, at(-time.Minute), after(-time.Hour), false},
		{"too long ago", announced, at(time.Hour), after(-time.Hour), false},
		{"first answer", nil, at(time.Second), after(-time.Hour), false},
		{"does not say", announced, at(time.Second), time.Time{}, false},
	} {
		if end, got := overdue(tc.before, tc.now, tc.rotated); got != tc.want || got && !end.Equal(epoch) {
			t.Errorf("%s: %v until %s", tc.name, got, end)
		}
	}
}
